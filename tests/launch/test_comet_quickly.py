"""Comet in a few seconds: one tracked run and one rejected upload. test_comet.py has every kind of fault."""

import json
import pathlib
import shutil

import pytest
import yaml
from conftest import TrainHere, digest, finished, run_command
from fake_comet import FakeComet, read_archive

KEY = "samebits-test-key-that-must-stay-secret"
REFUSED = (403, {"msg": "no such key", "sdk_error_code": 90212})


def variables(server: FakeComet, home: pathlib.Path) -> dict[str, str]:
    """Return the environment of a user with a key."""
    return {"COMET_API_KEY": KEY, "COMET_URL_OVERRIDE": server.url, "HOME": str(home), "NO_PROXY": "127.0.0.1"}


def test_a_tracked_run_is_the_untracked_one(
    own_siblings: pathlib.Path, tmp_path: pathlib.Path, train_here: TrainHere
) -> None:
    """A run with a rejected key has the same inputs and bits, an archive, and the key in no file or output."""
    with FakeComet({"/add/run": REFUSED}) as server:
        words = ("tracker=comet", "tracker.finish_timeout_s=300")
        done = train_here(own_siblings, *words, environment=variables(server, tmp_path))
    untracked, _, tracked = finished(own_siblings)
    (archive,) = (tracked / "comet").glob("*.zip")
    settings = json.loads((tracked / "machine.json").read_text())["arithmetic"]["settings"]

    assert 0 == done.returncode, done.stderr
    assert "same bits as 2 earlier runs" in done.stdout
    assert "archive (The given API key '***' is invalid" in done.stdout
    assert digest(untracked) == read_archive(archive).others["weights digest"]
    assert [] == [name for name in settings["environment"] if "COMET" in name]
    assert KEY not in done.stdout + done.stderr
    assert [] == [path for path in tracked.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


@pytest.mark.full
def test_what_a_server_refuses_is_kept_offline(siblings: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """If the server rejects metrics, everything is in an archive, and the output has the reason.

    That includes the seed of a layer, which is known by its path once the model was built.
    """
    inputs = finished(siblings)[0].parent
    attempt = pathlib.Path(shutil.copytree(inputs, tmp_path / inputs.name)) / "1"
    tree = yaml.safe_load((attempt / "config.yaml").read_text())
    tree["tracker"] |= {"name": "comet", "finish_timeout_s": 60.0}
    (attempt / "config.yaml").write_text(yaml.safe_dump(tree))
    seeds = json.loads((attempt / "seeds.json").read_text())
    seeds["points"].append(seeds["points"][0] | {"point": "model/drop/seed_generator", "value": 77})
    (attempt / "seeds.json").write_text(json.dumps(seeds))
    with FakeComet({"/experiment/metric": (400, {"msg": "no"})}) as server:
        told = run_command(siblings, "comet", str(attempt), environment=variables(server, tmp_path))
    (archive,) = (attempt / "comet").glob("*.zip")
    told_of = read_archive(archive)

    assert 0 == told.returncode, told.stderr
    assert "Comet: offline archive (" in told.stdout
    assert "is incomplete: " in told.stdout
    assert {5, 10, 15, 20, 25, 30} == {step for _, _, step, _ in told_of.metrics}
    assert 77 == told_of.others["seed model/drop/seed_generator"]


def test_the_look_for_the_key_can_fail(tmp_path: pathlib.Path) -> None:
    """Negative control: a file with the key is found."""
    (tmp_path / "tracker.txt").write_text(f"key {KEY}")

    with pytest.raises(AssertionError):
        assert [] == [path for path in tmp_path.rglob("*") if KEY.encode() in path.read_bytes()]
