"""The machine and the fixed settings: describes this computer, applies the settings and checks that they are in effect.

Also reads requirements.lock and runs commands on emulated CPUs. Must not know what is trained.
"""
