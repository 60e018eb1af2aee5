"""A package of a user whose data and model functions bring faults into the training process; tests copy it into src/.

The package stands beside the real one and calls it, so that no test edits source code. conftest.py copies it for every
command that names one of its functions.
"""
