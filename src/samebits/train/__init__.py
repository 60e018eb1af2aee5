"""The training process: data, model, steps, checkpoints, record.

Started by `launch` with fixed settings. Only `samebits/__init__.py` imports it. Must not start processes.

    worker       runs everything from the settings to the result; a `Trainer` is a `network` (Keras) or a `forest`
                 (scikit-learn)
    stages       several trainings, one after another
    data         what a data function gets and returns; `arrays` converts it, `splitting` splits it, `checks_of_data`
    script       runs a user's script, whose calls of Model.fit are `fit` stages; `notices` tells what it sets itself
    feeds        the batches of an epoch, from arrays; `streams`: those of `sources`, which `read_ahead` reads;
                 `iterators`: what can only be iterated
    seeding      gives each weight and each layer its seed; `draws` finds random numbers without one
    compiling    the loss, optimizer and metrics of a model
    steps        the traced functions around Keras's train_step and test_step
    callbacks    calls callbacks; `encoding` turns their state into plain data
    recorder     writes rows, progress and timings
    checkpoints  saves and restores variables; `resuming` starts a training, or continues it from a checkpoint
    loop         decides when to train, evaluate, record and save
    weights      saves the model, and loads weights; `predict` uses it, in a process of its own
    stop         handles requests to stop

For tests: `loop.Training` takes steps, batches, recorder, checkpoints and `stop_requested` as arguments, and
`recorder.Recorder` takes a clock, so a test can pass its own. In a whole process, a test can inject faults in the data
function, which runs before the loop is imported, or in `core.files`, which writes all files.
"""
