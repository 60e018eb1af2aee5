"""Scripts in the manner of other people's code, as they are: the same bits in two runs and after a kill."""

import pathlib
import shutil

import pytest
from conftest import ROOT, Result
from foreign_scripts import facts_of, middle_row, run_foreign, went_on

SCRIPTS = {  # name: what is said about it, and whether it goes on after a kill: "resumes", "begins anew", "no fit"
    "fine_tuning": ("", "resumes"),
    "gan": ("fit 1 begins anew after a kill, and so do later calls of fit: gan.py, line 23", "begins anew"),
    "k_fold": ("k_fold.py, line 15: set_random_seed seeds the global generators only", "resumes"),
    "kaggle_table": ("kaggle_table.py, line 10: seed seeds the global generators only", "resumes"),
    "notebook": ("notebook.ipynb is left out: %matplotlib inline", "resumes"),
    "own_generator": ("nobody knows the position of its train data, a generator", "begins anew"),
    "own_loop": ("own_loop.py, line 17: trains outside of fit", "no fit"),
    "search": ("", "resumes"),
    "seed_too_late": ("seed_too_late.py, line 18: set_random_seed seeds the global generators only", "resumes"),
    "text_pipeline": ("nobody knows the position of its train data, a ", "begins anew"),
    "with_arguments": ("", "resumes"),
}
QUICK = ("gan", "k_fold", "own_loop")
FOLDER = ROOT / "tests" / "scripts"


def name_of(script: str) -> str:
    """Return the name of the file of a script."""
    return next(FOLDER.glob(f"{script}.*")).name


@pytest.mark.parametrize("script", [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.full) for name in SCRIPTS
])  # fmt: skip
def test_a_script_of_others_has_the_same_bits_again_and_after_a_kill(
    script: str, tmp_path: pathlib.Path, forked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from another folder, under another parent. The message names the line; a kill costs what it says."""
    message, after_a_kill = SCRIPTS[script]

    def run(folder: pathlib.Path, **environment: str) -> Result:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(FOLDER / name_of(script), folder)
        return run_foreign(monkeypatch, folder / name_of(script), 2, environment)

    one, two = tmp_path / "one", tmp_path / "another/folder"
    first = run(one)

    assert 0 == first.returncode, first.stdout + first.stderr
    assert message in first.stderr
    if after_a_kill != "no fit":
        killed = run(two, KILL_AFTER_ROW=str(middle_row(one)), PYTHONHASHSEED="4242", TZ="Asia/Kathmandu")

        assert 1 == killed.returncode, killed.stdout + killed.stderr
        assert "killed by SIGKILL" in killed.stdout + killed.stderr
    second = run(two, LC_ALL="C")

    assert 0 == second.returncode, second.stdout + second.stderr
    assert went_on(second) == (after_a_kill == "resumes"), second.stdout
    assert facts_of(one) == facts_of(two)
