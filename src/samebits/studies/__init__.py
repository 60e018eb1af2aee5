"""Many runs: plans them, starts them with a launcher, summarizes them and shows them.

Never imports TensorFlow. Must not train by itself: every run goes through `launch`.
"""
