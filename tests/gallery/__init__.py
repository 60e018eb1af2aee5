"""Trainings of the kinds in Keras's gallery, one file each, as the package `gallery` of a project (docs/gallery.md)."""

import os

if os.environ.get("FAULT"):
    from faults.data import install

    install(os.environ["FAULT"])
