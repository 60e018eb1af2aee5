"""Checks of the promise: verify, explain, golden, audit, doctor, rounds, torture, portability.

Never imports TensorFlow. Each check prints one verdict and returns an exit code.
"""
