"""The container image: engines, what goes into it, the comparison of two, and what it checks when it starts.

Building needs the standard library alone. Must not train.
"""
