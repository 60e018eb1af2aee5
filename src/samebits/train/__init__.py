"""The training process: data, model, steps, checkpoints, record.

Started by `launch` with fixed settings. Only `samebits/__init__.py` imports it. Must not start processes.

    worker       runs everything from the settings to the result; a `Trainer` is a `network` (Keras) or a `forest`
                 (scikit-learn)
    data         splits, resampling and batches
    steps        loss, metrics and the traced functions
    recorder     writes rows, progress and timings
    checkpoints  saves and restores a run
    loop         decides when to train, evaluate, record and save
    draws        finds random numbers without a seed point
    stop         handles requests to stop

For tests: `loop.Training` takes steps, batches, recorder, checkpoints and `stop_requested` as arguments, and
`recorder.Recorder` takes a clock, so a test can pass its own. In a whole process, a test can inject faults in the data
function, which runs before the loop is imported, or in `core.files`, which writes all files.
"""
