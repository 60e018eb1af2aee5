"""Many runs: planned, executed by a launcher, summarized and shown.

Never imports TensorFlow. Must not train by itself: every run goes through `launch`.
"""
