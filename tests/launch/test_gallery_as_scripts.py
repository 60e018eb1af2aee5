"""Every training of the gallery, also as a plain script with `compile` and `fit`, which knows nothing of samebits."""

import os
import pathlib
import re
from collections.abc import Callable

import pytest
from conftest import Result
from foreign_scripts import facts_of, middle_row, run_foreign, went_on
from gallery_page import GALLERY, NAMES, RECORD, read_results, record

DIGITS = 12  # of a recorded digest
HOSTILE = {"PYTHONHASHSEED": "4242", "LC_ALL": "C", "TZ": "Asia/Kathmandu"}
CALLBACKS = {
    "anomaly": "[keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)]",
    "char_lm": "[WriteText()]",
    "regression": "callbacks()",
    "super_resolution": "[HalveRate()]",
    "time_series": "callbacks()",
}
STAGES = {  # the arguments of load, build and fit
    "contrastive": (("", '"pretrain", None', 4), (", labelled=True", '"finetune", model', 4)),
    "distillation": (("", '"teach", None', 4), ("", '"distill", model', 5)),
}
# What stands in the place of the import of samebits.
HEAD = """
from collections import namedtuple

import numpy as np

DataContext = Seed = object
Dataset = namedtuple("Dataset", "train validation test", defaults=(None, None))
Split = namedtuple("Split", "inputs labels sample_weight", defaults=(None, None))
"""
TAIL = """

class Context:
    def rng(self, *names):
        return np.random.default_rng(1)

    def seed(self, *names):
        return 1

    def mark_unused(self, *names, because):
        pass

    def split(self, labels, time=None):
        rows = np.arange(len(labels)) if time is not None else np.random.default_rng(2).permutation(len(labels))
        return rows[:-{validation_size}], rows[-{validation_size}:]


class Batches(keras.utils.PyDataset):
    def __init__(self, source):
        super().__init__()
        self.source = source

    def __len__(self):
        return len(self.source) // 32

    def __getitem__(self, index):
        return self.source.batch(np.arange(32 * index, 32 * index + 32), np.random.default_rng(index))


def data_of(part):
    if isinstance(part, tuple):
        return dict(zip(("x", "y", "sample_weight"), part))
    return dict(x=part(3, 1) if callable(part) else Batches(part) if hasattr(part, "batch") else part)


def validation_of(part):
    if part is None:
        return None
    given = data_of(part)
    return tuple(value for value in given.values() if value is not None) if isinstance(part, tuple) else given["x"]

"""
STAGE = """
data = load(Context(){load})
model = build(None{build})
model.fit(**data_of(data.train), validation_data=validation_of(data.validation), {fit})
"""


def as_script(name: str) -> str:
    """Return the text of a training of the gallery as a script: its functions, and a call of `fit` for each stage."""
    text = (GALLERY / f"{name}.py").read_text()
    found = re.search(r"training\.epochs=(\d+)", text)
    size = re.search(r"data\.validation_size=(\d+)", text)
    fit = "batch_size=16, " if "training.batch_size=16" in text else "batch_size=32, "
    fit = "" if "keras.utils.PyDataset" in text or "def make(" in text or "def batch(" in text else fit
    fit += f"callbacks={CALLBACKS.get(name)}"
    fit += ", class_weight={0: 1, 1: 12}" if "class_weight" in text else ""
    build = ", data" if "dataset: Dataset" in text else ""
    stages = STAGES.get(name) or (("", "", int(found[1]) if found else 4),)
    calls = [
        STAGE.format(load=load, build=build + (f", {given}" if given else ""), fit=f"epochs={epochs}, {fit}")
        for load, given, epochs in stages
    ]
    text = re.sub("^from samebits import .*\n", HEAD, text, count=1, flags=re.MULTILINE)

    assert "samebits" not in re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
    return text + TAIL.replace("{validation_size}", size[1] if size else "64") + "".join(calls)


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_a_training_of_the_gallery_is_a_script_as_well(
    name: str, tmp_path: pathlib.Path, forked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle, it ends with the bits of an undisturbed run, which are recorded; or a reason is named.

    When it is recorded, two undisturbed runs in different environments are compared with the killed one.
    """
    script = as_script(name)

    def run(folder: str, environment: dict[str, str]) -> Result:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.py").write_text(script)
        return run_foreign(monkeypatch, tmp_path / folder / f"{name}.py", 3, environment)

    kill_at = int(read_results()[name].get("script_killed", "0"))
    if RECORD in os.environ:
        done = [run("one", {}), run("two", HOSTILE)]
        kill_at = 0 if done[0].returncode else middle_row(tmp_path / "one")
    seen = {"script_killed": str(kill_at)} | see(run, tmp_path / "three", kill_at)
    if RECORD in os.environ:
        if kill_at:
            assert {seen["script_bits"]} == {facts_of(tmp_path / folder)[:DIGITS] for folder in ("one", "two")}
        record(name, seen)

    assert read_results()[name] == read_results()[name] | seen


def see(run: Callable[[str, dict[str, str]], Result], folder: pathlib.Path, kill_at: int) -> dict[str, str]:
    """Run a script, killed in its middle and resumed; once if it is refused (`kill_at` is 0).

    Returns:
        "script": whether it resumed, or else why not; "script_bits": the digest of what it gives.
    """
    first = run(folder.name, {"KILL_AFTER_ROW": str(kill_at)} if kill_at else {})
    said = first.stdout + first.stderr
    if not kill_at:
        refused = re.search(r"NotPortableError: not portable: ([^,]*),", said)
        assert refused, said
        return {"script": f"refused: {refused[1]}"}

    assert "killed by SIGKILL" in said, said
    second = run(folder.name, HOSTILE)
    assert 0 == second.returncode, second.stdout + second.stderr
    anew = re.search(r"begins anew after a kill, and so do later calls of fit: (.*)", said)
    assert went_on(second) != bool(anew), said + second.stdout
    return {"script": f"begins anew: {anew[1]}" if anew else "resumed", "script_bits": facts_of(folder)[:DIGITS]}


def test_every_script_of_the_gallery_resumes_or_says_why_not() -> None:
    """The record says so. Only iterated data and an operation that is not portable are a reason."""
    seen = {name: result["script"] for name, result in read_results().items()}
    others = {name: text for name, text in seen.items() if text != "resumed"}

    assert NAMES == [*seen]
    assert {"forecasting", "grouped_convolution", "image_tfdata"} == set(others)
    assert "refused: layer grouped (Conv2D) uses XLA" == others.pop("grouped_convolution")
    assert {"begins anew: nobody knows the position of its train data, a tf.data.Dataset"} == set(others.values())


def test_a_script_of_the_gallery_does_not_know_samebits() -> None:
    """It is Python, and imports libraries only."""
    for name in NAMES:
        compile(as_script(name), name, "exec")
