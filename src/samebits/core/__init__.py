"""The base of all rooms: errors, digests, seeds, configuration, crash-safe files, terminal output.

Imports no other room, and nothing heavier than NumPy. Must not know what a run, a training or a study is.
"""
