"""Keras pieces that have the same bits on every x86-64 CPU with AVX2, and the check that a graph has only such pieces.

Imported by user code and by `train` alone. Must not know of runs, seeds or files.
"""
