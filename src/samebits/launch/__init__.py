"""Starts, stops and resumes the training process, and follows its record to tell Comet.

Never imports TensorFlow. Must not judge results beyond the comparison of one run with its siblings.
"""
