"""Every training of the gallery has the same bits in another process and after a kill, and is portable or refused."""

import concurrent.futures
import pathlib
import shutil

import pytest
from conftest import ROOT, Result, TrainHere, copy_project, install_faults, run_script
from gallery_page import EMULATED, NAMES, PAGE, install, make_page, read_training
from pinned_trainer import PinnedTrainer

from samebits.compose import compose
from samebits.core.config import to_dict
from samebits.core.files import write_yaml
from samebits.launch.process import child_command
from samebits.runs.compare import first_difference
from samebits.runs.folder import CONFIG, METRICS, RESULT, read_json, read_rows

QUICK = ("mixup", "recommender", "vae")  # in `make test` too
STEP = 4  # of the kill; a checkpoint is one step older
RECORDS = ("metrics.jsonl", "trace.jsonl", "predictions.arrays", "log.csv")
HOSTILE = {"PYTHONHASHSEED": "4242", "LC_ALL": "C", "TZ": "Asia/Kathmandu", "MALLOC_ARENA_MAX": "1"}
CPUS = ("Haswell", "EPYC-Milan")
EXPERIMENT = "experiment=gallery", "tracker=none"


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


def check_done(done: Result, said: str) -> None:
    """Check that a training finished and said something."""
    assert 0 == done.returncode, done.stdout + done.stderr
    assert said in done.stdout, done.stdout


def check_equal(first: pathlib.Path, second: pathlib.Path) -> None:
    """Check that two attempts have the same results and the same rows, bit for bit."""
    own = ("timing", "phases", "resumed_at")
    one, two = ({k: v for k, v in read_json(attempt / RESULT).items() if k not in own} for attempt in (first, second))

    assert one == two
    for name in RECORDS:
        if (first / name).exists():
            assert (first / name).read_bytes() == (second / name).read_bytes()


def find_row(attempt: pathlib.Path) -> tuple[int, int]:
    """Return the row of metrics in the middle of the middle epoch, counted from 1, and that epoch."""
    rows = read_rows(attempt / METRICS)
    epoch = rows[-1]["epoch"] // 2 + 1
    return next(i for i, row in enumerate(rows, 1) if (row["epoch"], row["step"]) == (epoch, STEP)), epoch


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in NAMES]
)
def test_a_training_has_the_same_bits_again_and_after_a_kill(
    name: str, gallery: pathlib.Path, tmp_path: pathlib.Path, train_here: TrainHere
) -> None:
    """Two hostile processes, and one that is killed in the middle of an epoch and resumed, have the same bits.

    The second process is a fresh one, except in `make test`.
    """
    words = read_training(name).words
    check_done(train_here(gallery, *words, experiment="gallery"), "first run with these inputs")
    whole = list_attempts(gallery, name)[0]
    if name in QUICK:
        again = train_here(gallery, *words, experiment="gallery", environment=HOSTILE)
    else:
        again = run_script(gallery, "train.py", *EXPERIMENT, *words, environment=HOSTILE, cwd=tmp_path)
    check_done(again, "same bits as")
    row, epoch = find_row(whole)
    killed = train_here(gallery, *words, experiment="gallery", environment={"FAULT": f"row {row} kill", **HOSTILE})

    assert 1 == killed.returncode, killed.stdout + killed.stderr
    assert "killed by SIGKILL" in killed.stdout + killed.stderr
    check_done(train_here(gallery, *words, experiment="gallery"), f"resumes after epoch {epoch}, step {STEP - 1} of")
    assert 3 == len(list_attempts(gallery, name))
    for attempt in list_attempts(gallery, name)[1:]:
        check_equal(whole, attempt)
    result = read_json(whole / RESULT)
    assert ("machine" if read_training(name).refused else "portable") == result["promise"]
    assert read_training(name).row(result["metrics"][read_training(name).monitor]) in PAGE.read_text().splitlines()


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in NAMES if read_training(name).refused])
def test_what_is_not_portable_is_refused_by_name(name: str, gallery: pathlib.Path, train_here: TrainHere) -> None:
    """Under runtime=portable the error names the layer before the first step."""
    words = (*read_training(name).words, "runtime=portable")
    done = train_here(gallery, *words, experiment="gallery")

    assert 2 == done.returncode, done.stdout
    assert f"NotPortableError: not portable: {read_training(name).refused}" in done.stderr


def test_the_page_has_what_the_files_say() -> None:
    """docs/gallery.md is what tools/gallery_page.py writes, apart from the results."""
    results = {}
    for name, line in zip(NAMES, PAGE.read_text().splitlines()[-len(NAMES) :], strict=True):
        if not read_training(name).refused:
            results[name] = float(line.split("|")[4].split()[1])

    assert make_page(PAGE.read_text(), results) == PAGE.read_text()
    assert f"[{len(NAMES)} examples](docs/gallery.md)" in (ROOT / "README.md").read_text()
    assert len(NAMES) >= 24
    assert len(EMULATED) == 8
    assert {*EMULATED, *QUICK} <= {*NAMES}


def train_all(trainer: PinnedTrainer, root: pathlib.Path, folder: pathlib.Path) -> None:
    """Train an epoch of the emulated files, each in a folder of its own. One that a signal killed runs once more."""
    for name in EMULATED:
        config = compose(root, [*EXPERIMENT, *read_training(name).words, "training.epochs=1"])
        (folder / name).mkdir(parents=True)
        write_yaml(folder / name / CONFIG, to_dict(config))
        command, environment = child_command(config, folder / name, root)
        code = trainer.train(command, environment, root)
        if code < 0:
            code = trainer.train(command, environment, root)

        assert 0 == code, (folder / name / "log.txt").read_text()


@pytest.mark.emulated
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs Debian's qemu-user")
def test_other_cpus_give_the_same_bits(gallery: pathlib.Path, trainer: PinnedTrainer, tmp_path: pathlib.Path) -> None:
    """Eight trainings have the same records on this CPU, a Haswell and an EPYC-Milan."""
    emulators = {cpu: PinnedTrainer(("qemu-x86_64", "-cpu", cpu)) for cpu in CPUS}
    trainers = {"this CPU": trainer, **emulators}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        jobs = [pool.submit(train_all, each, gallery, tmp_path / cpu) for cpu, each in trainers.items()]
        for job in jobs:
            job.result()
    for emulator in emulators.values():
        emulator.close()
    found = {
        (cpu, name): first_difference(tmp_path / "this CPU" / name, tmp_path / cpu / name)
        for cpu in CPUS
        for name in EMULATED
    }

    assert {} == {key: difference for key, difference in found.items() if difference}


BROKEN = {  # name: what is replaced in its file, by what, the exit code, and the message
    "mixup": ("rng.beta(", "np.random.beta(", 2, "draw only from the rng or the seed that the source gets"),
    "vae": ("keras.random.normal(keras.ops.shape(mean), seed=self.generator)", "tf.random.normal(tf.shape(mean))", 2,
            "UncoveredDrawError: operation "),
    "super_resolution": ("self.batches += 1", "self.batches += np.random.randint(1, 3)", 1,
                         "the global generator numpy/global was used in epoch 1"),
    "anomaly": ("rng.normal(0, 0.05, (384, 32))", "np.random.default_rng().normal(0, 0.05, (384, 32))", 1,
                "DIFFERENT BITS than attempt 1"),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "mixup" else pytest.mark.full) for name in BROKEN]
)
def test_a_draw_without_a_seed_goes_red(name: str, own_gallery: pathlib.Path, train_here: TrainHere) -> None:
    """Negative control: a training that draws from a global generator, or from the system, is refused or differs."""
    old, new, code, said = BROKEN[name]
    path = own_gallery / "src" / "gallery" / f"{name}.py"

    assert 1 == path.read_text().count(old)
    path.write_text(path.read_text().replace(old, new))
    for _ in range(2 if "DIFFERENT" in said else 1):
        done = train_here(own_gallery, *read_training(name).words, experiment="gallery")
    assert code == done.returncode, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
