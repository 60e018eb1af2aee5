"""The container image: builds it, runs commands in it, compares two builds, and checks it when it starts.

Building needs only the standard library. Must not train.
"""
