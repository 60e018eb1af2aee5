"""What gives Keras the same bits on every x86-64 CPU with AVX2 and FMA: exact operations, the check of a graph, layers.

Imported only by user code and by `train`. Must not know of runs, seeds or files.
"""
