"""samebits: the harness of a reproducible training. Same seed, same bits.

The modules form layers, lowest first; docs/architecture.md draws them and import-linter checks them.
Importing this package imports nothing else.
"""
