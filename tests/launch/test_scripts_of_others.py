"""Scripts in the manner of other people's code, as they are: the same bits in two runs, and what cannot resume."""

import pathlib
import shutil

import pytest
from conftest import ROOT, TrainHere, digest, finished

from samebits import cli

SCRIPTS = {
    "gan": "fit 1 begins anew after a kill, and so do later calls of fit: gan.py, line 23",
    "k_fold": "k_fold.py, line 15: set_random_seed seeds the global generators only",
    "own_loop": "own_loop.py, line 17: trains outside of fit",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_of_others_has_the_same_bits_in_two_runs(
    train_here: TrainHere, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    name: str,
) -> None:  # fmt: skip
    """Also from another folder; the rows of the record are equal, and the message names the line."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    ends = []
    for place in ("one", "another/folder"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "tests" / "scripts" / f"{name}.py", folder)
        monkeypatch.chdir(folder)
        code = cli.main(["run", f"{name}.py", "tracker=none", "runtime=machine"])
        shown = capfd.readouterr()

        assert 0 == code, shown.out + shown.err
        assert SCRIPTS[name] in shown.err
        (attempt,) = finished(folder)
        ends.append((digest(attempt), (attempt / "trace.jsonl").read_bytes(), (attempt / "metrics.jsonl").exists()))

    assert ends[0] == ends[1]
