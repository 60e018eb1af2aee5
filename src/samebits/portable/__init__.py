"""Layers, losses and optimizers with the same bits on every x86-64 CPU with AVX2 and FMA, and the check of a graph.

Imported only by user code and by `train`. Must not know of runs, seeds or files.
"""
