"""One of `benchmarks.kinds` as people write it: python plain_script.py KIND EPOCHS, for `benchmarks.script_cost`."""

import importlib
import pathlib
import sys
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
kinds = importlib.import_module("benchmarks.kinds")
kind, epochs = importlib.import_module(f"benchmarks.kinds.{sys.argv[1]}"), int(sys.argv[2])
train, validation = kinds.split_arrays(kind)
model = kind.make_model()
model.fit(*train, batch_size=kind.BATCH, epochs=1, validation_data=validation, verbose=0)
began = time.monotonic()
model.fit(*train, batch_size=kind.BATCH, epochs=epochs, validation_data=validation, verbose=0)
print("seconds of fit:", time.monotonic() - began)
