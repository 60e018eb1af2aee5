"""The probe of `samebits check-script`: runs a script in a process of its own and records what it computes.

It starts without TensorFlow, and imports NumPy only after the script has done so.
"""
