"""A study: parsing of seeds, reuse of finished runs, equal digests with every launcher, a streaming summary."""

import functools
import json
import pathlib
import subprocess
import sys

import pytest
from conftest import QUIET, ROOT, digest, finished, run_command

from samebits import compose
from samebits.core.errors import ConfigError
from samebits.core.files import hold_lock
from samebits.core.metrics import Monitor
from samebits.runs.identity import name_inputs
from samebits.studies.execute import LOCK, LauncherOptions, train
from samebits.studies.plan import Record, Run, Study
from samebits.studies.study import compare_samples, conclude, parse_seeds, write_study

CONCLUDE = functools.partial(conclude, monitor=Monitor("val_accuracy"))
TINY = ("experiment=smoke", "tracker=none", "training.epochs=1", "training.steps_per_epoch=5")


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("1..4", [1, 2, 3, 4]), ("1,5,9", [1, 5, 9]), ("1..3,7", [1, 2, 3, 7]), ("0", [0]), ("3,1..3", [3, 1, 2])],
)
def test_seeds_are_numbers_and_ranges(text: str, seeds: list[int]) -> None:
    """Each seed counts once, in the given order; zero is a seed."""
    assert seeds == parse_seeds(text)


@pytest.mark.parametrize("text", ["", "a", "1..", "3..1", "1...3", "1,,2", "-1", "0..99999999"])
def test_other_words_are_refused(text: str) -> None:
    """The error shows the received text and the correct form."""
    with pytest.raises(ConfigError, match="--seeds: expected numbers and ranges"):
        parse_seeds(text)


@pytest.mark.full
def test_bad_usage_ends_with_two_and_leaves_nothing(project: pathlib.Path) -> None:
    """A wrong range, launcher or number of jobs gives a one-line error and creates no folder."""
    for option in ("--seeds=5..1", "--launcher=cloud", "--jobs=0"):
        done = run_command(project, "study", option, *TINY)

        assert 2 == done.returncode, done.stdout + done.stderr
        assert 1 == len(done.stderr.splitlines())
    assert not (project / "runs").exists()


def make_record(seed: int, variant: str = "base") -> Record:
    """Return a made-up finished run."""
    metrics = {"val_accuracy": 0.8 + seed % 7 / 100, "val_loss": 0.4 - seed % 5 / 100}
    return Record(variant, seed, "0" * 16, "1", metrics, "0" * 64)


def test_study_json_has_every_run_and_the_summary(tmp_path: pathlib.Path) -> None:
    """Failed runs are listed and not counted."""
    records = [make_record(1), make_record(2), Record("base", 3, "0" * 16, None, failure="killed")]
    _, failed = write_study(tmp_path / "study.json", "s", records, CONCLUDE)
    study = json.loads((tmp_path / "study.json").read_text())

    assert [1, 2, 3] == [run["seed"] for run in study["runs"]]
    assert [3] == [record.seed for record in failed]
    assert 2 == study["summary"]["base"]["val_accuracy"]["n"]


def test_ten_thousand_records_are_read_once_each(tmp_path: pathlib.Path) -> None:
    """Each record is read once, and only its numbers are kept."""
    asked = []

    def records() -> object:
        for seed in range(10_000):
            asked.append(seed)
            yield make_record(seed)

    samples, _ = write_study(tmp_path / "study.json", "s", records(), CONCLUDE)  # type: ignore[arg-type]

    assert list(range(10_000)) == asked
    assert 10_000 == samples["base"].runs
    assert 10_000 == len(json.loads((tmp_path / "study.json").read_text())["runs"])


def test_only_seeds_that_both_finished_are_compared(tmp_path: pathlib.Path) -> None:
    """A seed that only one configuration has is not compared."""
    records = [make_record(1), make_record(2), make_record(2, "other"), make_record(3, "other")]
    samples, _ = write_study(tmp_path / "study.json", "s", records, CONCLUDE)
    comparison = compare_samples(samples["base"], samples["other"], "val_loss", higher_is_better=False)

    assert comparison is not None
    assert (1, 1) == (comparison.n, comparison.ties)


def test_a_study_names_runs_as_training_does(tmp_path: pathlib.Path) -> None:
    """Group, tags and folder do not change a run's name; another seed does."""
    config = compose.compose(ROOT, [*TINY, f"paths.runs={tmp_path}"])
    study = Study("s", [Run("base", 1, config), Run("base", 1, config), Run("base", 2, config)], ROOT)

    assert [name_inputs(run.config(), ROOT) for run in study.runs] == study.inputs
    assert study.inputs[0] == study.inputs[1]
    assert study.inputs[0] != study.inputs[2]
    assert [0, 2] == study.missing()


COUNT = """
import collections, functools, json, pathlib, sys
from samebits import compose
from samebits.studies.study import conclude, write_study
from samebits.studies.plan import Run, Study
root, runs, count = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
base = compose.compose(root, ["experiment=smoke", "tracker=none", f"paths.runs={runs}"])
opened = collections.Counter()
made = [Run("base", seed, base) for seed in range(count)]
sys.addaudithook(lambda event, words: opened.update([event]) if event in ("open", "os.scandir", "os.listdir") else None)
study = Study("s", made, root)
missing = study.missing()
summarize = functools.partial(conclude, monitor=study.monitor)
samples, failed = write_study(runs / "study.json", "s", study.records(), summarize)
print(json.dumps([len(missing), samples["base"].runs, sum(opened.values())]))
"""


@pytest.mark.full
def test_a_summary_opens_each_result_once(tmp_path: pathlib.Path) -> None:
    """Forty more runs read forty more results and folders, but code, lock and all other files only once."""
    base = compose.compose(ROOT, [*TINY[:2], f"paths.runs={tmp_path}"])
    study = Study("s", [Run("base", seed, base) for seed in range(60)], ROOT)
    blank = dict.fromkeys(("weights_digest", "optimizer_digest", "data_digest", "promise", "fingerprint"), "0")
    result = {"metrics": {"val_accuracy": 0.5, "val_loss": 0.5}, **blank, "timing": {}, "resumed_at": None}
    for number in range(60):
        attempt = study.inputs_folder(number) / "1"
        attempt.mkdir(parents=True)
        (attempt / "result.json").write_text(json.dumps(result))
    opened = []
    for count in (20, 60):
        command = [sys.executable, "-c", COUNT, str(ROOT), str(tmp_path), str(count)]
        environment = QUIET | {"PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        missing, read, opens = json.loads(done.stdout)
        opened.append(opens)

        assert (0, count) == (missing, read)
    assert 2 * 40 == opened[1] - opened[0]


def test_a_damaged_result_is_listed_and_stops_nothing(tmp_path: pathlib.Path) -> None:
    """The failure names the damaged file, and the other run is read."""
    base = compose.compose(ROOT, [*TINY, f"paths.runs={tmp_path}"])
    study = Study("s", [Run("base", 1, base), Run("base", 2, base)], ROOT)
    attempt = study.inputs_folder(0) / "1"
    attempt.mkdir(parents=True)
    (attempt / "result.json").write_text("{")
    first, second = study.records()

    assert first.attempt is None
    assert "result.json could not be read" in first.failure
    assert "it was not started" == second.failure


def test_one_process_trains_a_study(tmp_path: pathlib.Path) -> None:
    """A second process for the same study is refused and leaves the first one's jobs alone."""
    base = compose.compose(ROOT, [*TINY, f"paths.runs={tmp_path}"])
    study = Study("s", [Run("base", 1, base)], ROOT)
    study.folder.mkdir(parents=True)
    with hold_lock(study.folder / LOCK), pytest.raises(ConfigError, match="another process is training it"):
        train(study, LauncherOptions("basic"))

    assert [1] == [number + 1 for number in study.missing()]


def test_an_unknown_launcher_is_refused() -> None:
    """The error lists the launchers."""
    with pytest.raises(ConfigError, match="basic or joblib or submitit_local or submitit_slurm"):
        LauncherOptions("cloud").overrides()


@pytest.mark.full
def test_every_launcher_gives_the_same_bits_and_finished_runs_are_found(project: pathlib.Path) -> None:
    """Two seeds with each launcher give two digests in total; a second command trains nothing."""
    digests = []
    for launcher in ("basic", "joblib", "submitit_local"):
        folder = f"paths.runs=runs/{launcher}"
        done = run_command(project, "study", "--seeds=1..2", f"--launcher={launcher}", *TINY, folder)
        attempts = [path.parent for path in sorted((project / "runs" / launcher).glob("smoke/*/*/result.json"))]

        assert 0 == done.returncode, done.stdout + done.stderr
        assert "2 runs: 2 started, 0 already finished" in done.stdout
        digests.append({attempt.parent.name: digest(attempt) for attempt in attempts})
    again = run_command(project, "study", "--seeds=1..2", *TINY, "paths.runs=runs/basic")

    assert 2 == len(set(digests[0].values()))
    assert digests[0] == digests[1] == digests[2]
    assert "2 runs: 0 started, 2 already finished" in again.stdout


@pytest.mark.full
def test_a_failed_run_is_listed_and_does_not_stop_the_rest(project: pathlib.Path) -> None:
    """A configuration that cannot train is listed as failed, the other is summarized, and the exit code is 1."""
    versus = "--versus=data.rows=3"
    done = run_command(project, "study", "--seeds=1", "--launcher=basic", versus, *TINY)

    assert 1 == done.returncode, done.stdout + done.stderr
    assert "INCOMPLETE: 1 of 2 runs did not finish" in done.stdout
    assert 1 == len(finished(project))
