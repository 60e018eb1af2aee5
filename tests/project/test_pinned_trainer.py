"""The tests' trainer: a fork of it trains exactly like a fresh process."""

import pathlib

import pytest
from conftest import TrainHere, finished
from pinned_trainer import PinnedTrainer

from samebits.core.config import from_dict
from samebits.launch import process
from samebits.runs.folder import read_json, read_rows, read_yaml

RECORDS = ("metrics.jsonl", "trace.jsonl", "predictions.arrays")


def test_a_fork_leaves_the_record_of_a_fresh_process(own_siblings: pathlib.Path, train_here: TrainHere) -> None:
    """Rows, digests, generator states, Python's hashes and all settings are equal, byte for byte."""
    done = train_here(own_siblings)
    fresh, _, forked = finished(own_siblings)

    assert "same bits as 2 earlier runs" in done.stdout, done.stderr
    for name in RECORDS:
        assert (fresh / name).read_bytes() == (forked / name).read_bytes()
    ours, theirs = (read_json(path / "machine.json")["arithmetic"] for path in (forked, fresh))
    for each in (ours, theirs):
        del each["settings"]["environment"]["PYTHONPATH"]  # the projects lie in different folders

    assert theirs == ours


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [pytest.param("TF_ENABLE_ONEDNN_OPTS", "0", 1, marks=pytest.mark.full), ("PYTHONHASHSEED", "1", 0)],
)
def test_a_trainer_without_the_pins_is_found_out(name: str, value: str, code: int, own_siblings: pathlib.Path) -> None:
    """Negative control: without oneDNN it is refused, and with another hash seed its record differs."""
    fresh = finished(own_siblings)[0]
    attempt = fresh.parent / "9"
    attempt.mkdir()
    (attempt / "config.yaml").write_bytes((fresh / "config.yaml").read_bytes())
    config = from_dict(read_yaml(attempt / "config.yaml"))
    command, environment = process.child_command(config, attempt, own_siblings)
    trainer = PinnedTrainer()
    trainer.trainers[trainer.key(environment)] = trainer.find(environment | {name: value})
    try:
        assert code == trainer.train(command, environment, own_siblings)
    finally:
        trainer.close()
    if code == 0:
        ours, theirs = (read_rows(path / "trace.jsonl")[0]["generators"] for path in (attempt, fresh))

        assert ["python/hash"] == [point for point in theirs if ours[point] != theirs[point]]
    else:
        assert "RuntimePinError: onednn is not in effect." in (attempt / "log.txt").read_text()
