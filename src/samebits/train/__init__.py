"""The training process: data, model, steps, checkpoints, record.

Started by `launch` in a pinned environment; nothing imports it but the package's own face. Must not start processes.

    worker      from the pins to the result; a `Trainer` is a `network` (Keras) or a `forest` (scikit-learn)
    data        which rows: splits, resampling, the batches of an epoch
    steps       what is computed: loss, metrics, the traced functions
    recorder    what is written: rows, progress, seconds; `checkpoints`: where a run resumes
    loop        when: it calls the four above and knows nothing of how they work
    draws, stop what may not draw random numbers; who asks to stop

Seams for tests. `loop.Training` takes steps, batches, recorder, checkpoints and `stop_requested` as arguments, and
`recorder.Recorder` takes the clock: give them your own. In a whole process the data function runs before the loop is
imported, and `core.files` writes all files (`files.append_row`, `files.write_arrays`): put a fault there.
"""
