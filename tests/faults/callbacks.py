"""Callbacks that are wrong, each in one way."""

import threading

import keras


class Locked(keras.callbacks.Callback):
    """Has an attribute that no checkpoint can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
