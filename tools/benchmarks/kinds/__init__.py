"""Three trainings of the kinds of Keras's gallery, for the race: each as a data function, and a compiled model.

The race copies this package below src/ of a project. `python -m benchmarks.plain_kind` trains the same in plain Keras.
"""
