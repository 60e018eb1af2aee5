"""The machine and the pinned environment: what this computer is, which settings are fixed, and the check that they are.

Also reads requirements.lock and starts commands on emulated CPUs. Must not know what is trained.
"""
