"""One run: what names it, what its folder holds, how it is read, compared with another and removed.

Reads and compares records. Must not start a process or train anything.
"""
