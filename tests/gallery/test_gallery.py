"""Every training of the gallery has the same bits in another process and after a kill, and is portable or refused."""

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from conftest import ROOT, Result, TrainHere, copy_project, install_faults, run_script
from gallery_page import EMULATED, NAMES, PAGE, RECORD, install, make_page, read_results, read_training, record
from pinned_trainer import PinnedTrainer

from samebits.compose import compose
from samebits.core.config import Config, to_dict
from samebits.core.digest import bytes_digest, json_digest
from samebits.core.files import write_yaml
from samebits.launch.process import child_command
from samebits.runs.compare import first_difference
from samebits.runs.folder import CONFIG, METRICS, RESULT, is_finished, read_json, read_rows, read_yaml

FRESH = ("grouped_convolution", "multi_task", "vae")  # in a fresh hostile process in all tests
KILLED = (  # in all tests: stages, each form of data, callbacks of the configuration
    "distillation", "grouped_convolution", "image_tfdata", "mixup", "regression", "segmentation", "super_resolution",
    "time_series",
)  # fmt: skip
ONCE = ("anomaly", "char_lm", "contrastive", "forecasting", "imbalanced")  # in all tests, compared with the record
# The others differ in their models only. In all tests, their scripts are killed and resumed.
TRAINED = NAMES if RECORD in os.environ else sorted({*FRESH, *KILLED, *ONCE})
STEP = 4  # of the kill; a checkpoint is one step older
RECORDS = ("metrics.jsonl", "trace.jsonl", "predictions.arrays", "log.csv")
OWN = ("timing", "phases", "resumed_at")  # what differs between two attempts
HOSTILE = {"PYTHONHASHSEED": "4242", "LC_ALL": "C", "TZ": "Asia/Kathmandu", "MALLOC_ARENA_MAX": "1"}
CPUS = ("Haswell", "EPYC-Milan")
EXPERIMENT = "experiment=gallery", "tracker=none"

Train = Callable[..., Result]  # root, *overrides


def install_gallery(root: pathlib.Path) -> None:
    """Put the gallery and the faults into a project."""
    install_faults(root, ["data._target_=faults.data.load"])
    install(root)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a project with the gallery."""
    root = copy_project(tmp_path_factory.mktemp("gallery"))
    install_gallery(root)
    return root


@pytest.fixture
def own_gallery(project: pathlib.Path) -> pathlib.Path:
    """Return a project with the gallery that a test may change."""
    install_gallery(project)
    return project


def list_attempts(root: pathlib.Path, name: str) -> list[pathlib.Path]:
    """Return the attempts of one training, oldest first."""
    return sorted((root / "runs" / name).glob("*/[0-9]*"), key=lambda path: int(path.name))


def problem(done: Result, code: int, said: str) -> str:
    """Return what is wrong with an exit code and with what was printed, "" if nothing is."""
    printed = done.stdout + done.stderr
    return "" if done.returncode == code and said in printed else f"exit code {done.returncode}: {printed}"


def facts_of(attempt: pathlib.Path) -> dict[str, Any]:
    """Return what must have the same bits in two attempts: the values of the result and the digests of the records."""
    result = {key: value for key, value in read_json(attempt / RESULT).items() if key not in OWN}
    return result | {name: bytes_digest((attempt / name).read_bytes()) for name in RECORDS if (attempt / name).exists()}


def difference(first: pathlib.Path, second: pathlib.Path) -> str:
    """Return where two attempts differ in their results or in a byte of their records, "" if nowhere."""
    one, two = facts_of(first), facts_of(second)
    return ", ".join(key for key in {**one, **two} if one.get(key) != two.get(key))


def digest_of(attempt: pathlib.Path) -> str:
    """Return the digest of an attempt's result and records, which is the same on every machine under `portable`."""
    return json_digest({key: value for key, value in facts_of(attempt).items() if key != "fingerprint"})[:12]


def find_row(attempt: pathlib.Path) -> str:
    """Return the row of metrics in the middle of the middle epoch, counted from 1, and that epoch: "row 7, epoch 2"."""
    rows = read_rows(attempt / METRICS)
    epoch = rows[-1]["epoch"] // 2 + 1
    row = next(i for i, row in enumerate(rows, 1) if (row["epoch"], row["step"]) == (epoch, STEP))
    return f"row {row}, epoch {epoch}"


def see_portable(name: str, root: pathlib.Path, result: dict[str, Any], train_here: TrainHere) -> str:
    """Return whether a training is portable, with which untested operations, and what refuses it if it is not."""
    if result["promise"] == "portable":
        untested = ", ".join(result["unmeasured_operations"])
        return f"yes, with untested {untested}" if untested else "yes"
    done = train_here(root, *read_training(name).words, "runtime=portable", experiment="gallery")
    found = re.search("NotPortableError: not portable: ([^,]*),", done.stderr)
    return f"refused: {found[1]}" if found and done.returncode == 2 else problem(done, 2, "NotPortableError")


def see(name: str, root: pathlib.Path, train_here: TrainHere, train_again: Train) -> dict[str, str]:
    """Train a file, train it again in another process, then kill it in the middle of an epoch and resume it.

    Args:
        name: The file.
        root: The project.
        train_here: Trains.
        train_again: Trains in another process with another environment.

    Returns:
        What was seen: columns of the page, the row of the kill, and digests. "yes": every result and record has the
        same bits as those of the first training.
    """
    words = read_training(name).words
    done = train_here(root, *words, experiment="gallery")

    assert not problem(done, 0, "first run with these inputs"), problem(done, 0, "first run with these inputs")
    (whole,) = list_attempts(root, name)
    seen = {"verified": problem(train_again(root, *words), 0, "same bits as")}
    seen["killed"] = find_row(whole)
    seen["resumed"] = kill_and_resume(name, root, train_here, seen["killed"], HOSTILE)
    for attempt, key in zip(list_attempts(root, name)[1:], ("verified", "resumed"), strict=True):
        seen[key] = seen[key] or difference(whole, attempt) or "yes"
    seen |= see_result(name, root, whole, train_here)
    if "bits" in seen:
        monitor = read_yaml(whole / CONFIG)["training"]["monitor"]
        seen["result"] = f"{monitor} {read_json(whole / RESULT)['metrics'][monitor]:.4f}"
    return seen


def see_result(name: str, root: pathlib.Path, attempt: pathlib.Path, train_here: TrainHere) -> dict[str, str]:
    """Return whether an attempt is portable, and then the digests of its weights and of everything."""
    result = read_json(attempt / RESULT)
    seen = {"portable": see_portable(name, root, result, train_here)}
    if result["promise"] == "portable":  # then it is the same on every machine
        seen |= {"weights": result["weights_digest"][:12], "bits": digest_of(attempt)}
    return seen


def kill_and_resume(
    name: str, root: pathlib.Path, train_here: TrainHere, place: str, environment: dict[str, str] | None = None
) -> str:
    """Kill a training when it wrote a row ("row 7, epoch 2"), and resume it. Returns what went wrong."""
    row, epoch = re.findall(r"\d+", place)
    words, fault = read_training(name).words, {"FAULT": f"row {row} kill"} | (environment or {})
    killed = train_here(root, *words, experiment="gallery", environment=fault)
    resumed = train_here(root, *words, experiment="gallery")
    return problem(killed, 1, "killed by SIGKILL") or problem(
        resumed, 0, f"resumes after epoch {epoch}, step {STEP - 1} of"
    )


def see_recorded(name: str, root: pathlib.Path, train_here: TrainHere, train_again: Train) -> dict[str, str]:
    """Train a file once, or kill it in the middle of an epoch and resume it. Returns what was seen, as `see` does.

    The digest of everything that an undisturbed training gave is in the record, but for one that is not portable. That
    is trained in both ways.
    """
    problems = ""
    if name in FRESH:
        problems = problem(train_again(root, *read_training(name).words), 0, "first run with these inputs")
    if name in KILLED:
        problems += kill_and_resume(name, root, train_here, read_results()[name]["killed"])
    elif name not in FRESH:
        problems = problem(train_here(root, *read_training(name).words, experiment="gallery"), 0, "")

    assert not problems, problems
    attempts = list_attempts(root, name)
    assert "" == difference(attempts[0], attempts[-1])
    return see_result(name, root, attempts[-1], train_here)


def check_seen(name: str, seen: dict[str, str]) -> None:
    """Check that the page has what was seen, which tools/gallery_page.py has recorded first."""
    if RECORD in os.environ:
        record(name, seen)

    assert read_results()[name] == read_results()[name] | seen


@pytest.mark.full
@pytest.mark.parametrize("name", TRAINED)
def test_a_training_has_the_same_bits_again_and_after_a_kill(
    name: str, gallery: pathlib.Path, tmp_path: pathlib.Path, train_here: TrainHere
) -> None:
    """Two hostile processes, and one that is killed in the middle of an epoch and resumed, have the recorded bits.

    Unless this is recorded, each is trained once only, and some of these are killed and resumed: the record has the
    digest of an undisturbed training, which came from two processes.
    """

    def train_again(root: pathlib.Path, *words: str) -> Result:
        return run_script(root, "train.py", *EXPERIMENT, *words, environment=HOSTILE, cwd=tmp_path)

    look = see if RECORD in os.environ else see_recorded
    check_seen(name, look(name, gallery, train_here, train_again))


def test_the_page_has_what_was_seen() -> None:
    """docs/gallery.md is what tools/gallery_page.py writes. Every training was verified, resumed, and is portable.

    Or it was refused by name.
    """
    results = read_results()

    assert make_page(PAGE.read_text(), results) == PAGE.read_text()
    assert f"[{len(NAMES)} examples](docs/gallery.md)" in (ROOT / "README.md").read_text()
    assert len(NAMES) >= 24
    assert [*results] == NAMES
    assert {"yes"} == {seen[column] for seen in results.values() for column in ("verified", "resumed")}
    refused = [name for name, seen in results.items() if seen["portable"].startswith("refused: layer grouped (Conv2D)")]
    assert ["grouped_convolution"] == refused
    assert {*NAMES} == {*refused} | {name for name, seen in results.items() if seen["portable"].startswith("yes")}
    assert len(EMULATED) == 8
    assert {*EMULATED} >= {name for name, seen in results.items() if "emulated" in seen}
    assert {"yes"} >= {seen["emulated"] for seen in results.values() if "emulated" in seen}
    assert {*FRESH, *KILLED, *ONCE} <= {*NAMES}
    assert {*refused} == {*FRESH} & {*KILLED}  # no record has its digest
    assert f"again: {', '.join(KILLED)}." in " ".join(PAGE.read_text().split())
    assert f"record: {', '.join(ONCE)}." in " ".join(PAGE.read_text().split())


def train_all(trainer: PinnedTrainer, root: pathlib.Path, configs: dict[pathlib.Path, Config]) -> None:
    """Train each configuration in its folder. One that a signal killed runs once more.

    The emulator sometimes crashes in programs with many threads.
    """
    for attempt, config in configs.items():
        attempt.mkdir(parents=True)
        write_yaml(attempt / CONFIG, to_dict(config))
        command, environment = child_command(config, attempt, root)
        if trainer.train(command, environment, root) < 0:
            trainer.train(command, environment, root)


@pytest.mark.emulated
@pytest.mark.skipif(RECORD not in os.environ, reason="half an hour: tools/gallery_page.py --emulate")
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs Debian's qemu-user")
def test_other_cpus_give_the_same_bits(gallery: pathlib.Path, trainer: PinnedTrainer, tmp_path: pathlib.Path) -> None:
    """Eight trainings have the same records on this CPU, a Haswell and an EPYC-Milan, for an epoch."""
    words = {name: [*EXPERIMENT, *read_training(name).words, "training.epochs=1"] for name in EMULATED}
    configs = {name: compose(gallery, overrides) for name, overrides in words.items()}
    emulators = {cpu: PinnedTrainer(("qemu-x86_64", "-cpu", cpu)) for cpu in CPUS}
    trainers = {"this CPU": trainer, **emulators}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        jobs = [
            pool.submit(train_all, each, gallery, {tmp_path / cpu / name: config for name, config in configs.items()})
            for cpu, each in trainers.items()
        ]
        for job in jobs:
            job.result()
    for emulator in emulators.values():
        emulator.close()
    for name in EMULATED:
        attempts = {cpu: tmp_path / cpu / name for cpu in trainers}
        unfinished = [f"{cpu} did not finish" for cpu, attempt in attempts.items() if not is_finished(attempt)]
        different = [] if unfinished else [
            f"{cpu}: {found}" for cpu in CPUS if (found := first_difference(attempts["this CPU"], attempts[cpu]))
        ]  # fmt: skip
        check_seen(name, {"emulated": ", ".join(unfinished + different) or "yes"})


BROKEN = {  # name: what is replaced in its file, by what, the exit code, and the message
    "mixup": ("rng.beta(", "np.random.beta(", 2, "draw only from the rng or the seed that the source gets"),
    "vae": ("keras.random.normal(keras.ops.shape(mean), seed=self.generator)", "tf.random.normal(tf.shape(mean))", 1,
            "UncoveredDrawError: operation "),
    "super_resolution": ("self.batches += 1", "self.batches += np.random.randint(1, 3)", 1,
                         "the global generator numpy/global was used in epoch 1"),
}  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("name", BROKEN)
def test_a_draw_without_a_seed_goes_red(name: str, own_gallery: pathlib.Path, train_here: TrainHere) -> None:
    """Negative control: a training that draws from a global generator, or from the system, is refused or differs."""
    old, new, code, said = BROKEN[name]
    replace_in_file(own_gallery, name, old, new)
    done = train_here(own_gallery, *read_training(name).words, experiment="gallery")

    assert "" == problem(done, code, said)


@pytest.mark.full
def test_other_bits_are_seen(own_gallery: pathlib.Path, train_here: TrainHere) -> None:
    """Negative control: data that the system's entropy draws give other bits again and after a kill."""
    noise = "rng.normal(0, 0.05, (384, 32))"
    replace_in_file(own_gallery, "anomaly", noise, f"np.random.default_rng().{noise.partition('.')[2]}")
    seen = see("anomaly", own_gallery, train_here, lambda root, *words: train_here(root, *words, experiment="gallery"))

    assert "DIFFERENT BITS than attempt 1" in seen["verified"]
    assert "DataError: the data of a resumed run" in seen["resumed"]


def test_one_other_byte_is_a_difference(tmp_path: pathlib.Path) -> None:
    """Negative control: a byte of a record or a digit of a result is named."""
    same: dict[str, Any] = dict.fromkeys(
        ("weights_digest", "optimizer_digest", "data_digest", "promise", "fingerprint"), ""
    )
    same |= dict.fromkeys(("stopped_early", "epochs_done", "best_epoch", "resumed_at"))
    for attempt, loss, log in (("1", 0.5, "a"), ("2", 0.25, "b"), ("3", 0.5, "a")):
        (tmp_path / attempt).mkdir()
        own = {"timing": {"seconds": int(attempt)}, "metrics": {"loss": loss}}
        (tmp_path / attempt / RESULT).write_text(json.dumps({**same, **own}))
        (tmp_path / attempt / "log.csv").write_text(log)

    assert "metrics, log.csv" == difference(tmp_path / "1", tmp_path / "2")
    assert "" == difference(tmp_path / "1", tmp_path / "3")


def replace_in_file(root: pathlib.Path, name: str, old: str, new: str) -> None:
    """Replace what a file of the gallery in a project has once."""
    path = root / "src" / "gallery" / f"{name}.py"

    assert 1 == path.read_text().count(old)
    path.write_text(path.read_text().replace(old, new))
