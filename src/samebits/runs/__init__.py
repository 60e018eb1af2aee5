"""One run: its identity, its folder, and how runs are read, compared and removed.

Must not start a process or train anything.
"""
