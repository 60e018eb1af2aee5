"""The training process: data, model, steps, checkpoints, record.

Started by `launch` in a pinned environment; nothing imports it but the package's own face. Must not start processes.
"""
