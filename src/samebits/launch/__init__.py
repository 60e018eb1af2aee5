"""Starts, stops and resumes the training process, and logs its record to Comet.

Never imports TensorFlow. Compares a run only with attempts with the same inputs.
"""
