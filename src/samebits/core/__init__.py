"""What every room stands on: errors, digests, seeds, the configuration, files that no fault can tear, the terminal.

Imports no other room, and nothing heavier than NumPy. Must not know what a run, a training or a study is.
"""
