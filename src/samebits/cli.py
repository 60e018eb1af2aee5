"""The command line: `samebits` and its commands.

Imports only the standard library. Each command imports its room when it runs. So `samebits --help` answers at once, and
`samebits image` works without the project's environment.
"""

import argparse
import difflib
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from samebits.core.errors import ConfigError, UsageError, report_errors
from samebits.core.project import find_root

if TYPE_CHECKING:
    from samebits.core.config import Config
    from samebits.studies.execute import LauncherOptions

PROJECT_NAME = r"[A-Za-z][A-Za-z0-9]*([-_.][A-Za-z0-9]+)*"  # as in copier.yml
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
GROUPS = {
    "daily": "Every day",
    "prove": "Prove the promise",
    "statistics": "Many runs",
    "container": "In a container (needs no environment)",
    "maintenance": "Maintenance",
}

# Commands that also work in a folder that is no project, with the runs of scripts in ./runs.
WITHOUT_PROJECT = ("run", "resume", "explain", "report", "watch", "comet", "verify", "study", "prune", "check-script")

Handler = Callable[[argparse.Namespace, pathlib.Path], int]


@dataclass(frozen=True)
class Argument:
    """One argument of a command, in the form that argparse's `add_argument` takes."""

    names: tuple[str, ...]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: One word, or two such as "image build".
        group: A key of `GROUPS`.
        summary: One line of help.
        example: A complete command line.
        arguments: Its options and positional arguments. None: all words arrive unparsed, in `words`.
        handler: Gets the parsed arguments and the project's folder; returns an exit code.
    """

    name: str
    group: str
    summary: str
    example: str
    arguments: tuple[Argument, ...] | None
    handler: Handler

    def parser(self) -> argparse.ArgumentParser:
        """Return the parser of the command's arguments."""
        parser = argparse.ArgumentParser(
            prog=f"samebits {self.name}",
            description=self.summary[0].upper() + self.summary[1:] + ".",
            epilog=f"example:\n  {self.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for argument in self.arguments or ():
            parser.add_argument(*argument.names, **argument.settings)
        return parser

    def parse(self, words: list[str]) -> argparse.Namespace:
        """Return the parsed arguments. Options and positional arguments may be mixed. `own` are those of a script."""
        if self.arguments is None:
            return argparse.Namespace(words=words)
        if any(argument.settings.get("nargs") == argparse.REMAINDER for argument in self.arguments):
            return self.parser().parse_args(words)
        end = words.index("--") if "--" in words and SETTINGS in self.arguments else len(words)
        given = self.parser().parse_intermixed_args(words[:end])
        given.own = words[end + 1 :]
        return given


COMMANDS: dict[str, Command] = {}


def argument(*names: str, **settings: Any) -> Argument:
    """Return an argument of a command."""
    return Argument(names, settings)


def command(
    name: str, group: str, summary: str, example: str, arguments: Sequence[Argument] | None = ()
) -> Callable[[Handler], Handler]:
    """Return a decorator that registers a handler as a command."""

    def register(handler: Handler) -> Handler:
        COMMANDS[name] = Command(
            name, group, summary, example, None if arguments is None else tuple(arguments), handler
        )
        return handler

    return register


def at_least_one(text: str) -> int:
    """Return a word as an integer of at least 1.

    Raises:
        argparse.ArgumentTypeError: It is not an integer, or it is below 1.
    """
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, received {text!r}")
    return int(text)


OVERRIDES = argument(
    "overrides", nargs="*", metavar="key=value", help="settings from conf/; samebits train --help lists them"
)
SETTINGS = argument(
    "overrides", nargs="*", metavar="SCRIPT|key=value", help="script.py or .ipynb, or settings from conf/"
)
RUN = argument(
    "run", nargs="?", default="last", metavar="RUN", help="last, last~1, a folder, or a printed name (default: last)"
)
YES = argument("--yes", action="store_true", help="remove the listed files; without --yes they are only listed")
LAUNCHING = (
    argument("--launcher", default="", help="basic, joblib, submitit_local or submitit_slurm (default: joblib)"),
    argument("--jobs", default="", metavar="N", help="runs in parallel (default: one per core)"),
)
BUILDING = (
    argument("--engine", default="", help="docker, podman or buildah (default: the first that works)"),
    argument("--tag", default="", help="name of the image (default: the project's name)"),
    argument("--base", default="", metavar="IMAGE", help="base image (default: the one in the Dockerfile)"),
    argument("--variant", default="cpu", choices=("cpu", "gpu"), help="TensorFlow's build (default: cpu)"),
)
# Tests of what an image can change: files, locks and limits of another user on a read-only root, trainings and faults.
IN_IMAGE = "tests/core tests/launch/test_faults_in_training.py"
TARGET = argument("--target", default="train", choices=("train", "test"), help="test adds the test and lint tools")
RUNNING = (
    *BUILDING,
    argument("--as-is", action="store_true", help="use the existing image, even if it is out of date"),
    argument(
        "--mounts", type=pathlib.Path, metavar="FOLDER", help="folder with runs and .cache (default: the project)"
    ),
    argument("--user", default="", metavar="UID:GID", help="user in the container (default: you)"),
    argument("--network", default="none", help="the container's network (default: none)"),
    argument(
        "--option", action="append", default=[], metavar="OPTION", help="of docker run, as in --option=--memory=4g"
    ),
)


def is_override(word: str) -> bool:
    """Return whether a word is a Hydra override and not a name."""
    return "=" in word or word[:1] in {"~", "+"}


def names_experiment(overrides: Sequence[str]) -> bool:
    """Return whether one of the overrides chooses an experiment."""
    return any(word.startswith("experiment=") for word in overrides)


def is_script(word: str) -> bool:
    """Return whether a word is the path of a script or notebook and not a setting."""
    return word.endswith((".py", ".ipynb")) and not is_override(word)


def composer(root: pathlib.Path, overrides: Sequence[str], own: Sequence[str] = ()) -> "Callable[[list[str]], Config]":
    """Return a function that composes the configuration from these overrides plus those of the call.

    Args:
        root: The project's folder.
        overrides: Settings; for a script also its path.
        own: The script's own arguments.

    Raises:
        UsageError: There are two scripts, or arguments without a script.
    """
    from samebits.compose import compose, compose_script

    scripts = [word for word in overrides if is_script(word)]
    settings = [word for word in overrides if word not in scripts]
    if len(scripts) > 1 or (own and not scripts):
        raise UsageError(
            "script", expected="one path of a Python file", received=", ".join(scripts) or "none",
            fix="samebits run script.py key=value -- the script's own arguments",
        )  # fmt: skip
    if scripts:
        return lambda more: compose_script([*settings, *more], pathlib.Path(scripts[0]), own)
    find_root(root)
    return lambda more: compose(root, [*settings, *more])


def launch_of(given: argparse.Namespace) -> "tuple[LauncherOptions, list[str]]":
    """Return the launcher's options, and the overrides that belong to the runs."""
    from samebits.studies.execute import LauncherOptions

    settings = tuple(word for word in given.overrides if word.startswith("hydra."))
    return LauncherOptions(given.launcher, given.jobs, settings), [
        word for word in given.overrides if word not in settings
    ]


def find_attempts(root: pathlib.Path, *names: str) -> list[pathlib.Path]:
    """Return the folders of the named attempts."""
    from samebits.runs.folder import find_attempt

    return [find_attempt(root / "runs", name) for name in names]


# --- every day ---


@command(
    "train",
    "daily",
    "train one run, or every fold",
    "samebits train seed.root=56 training.epochs=3",
    None,
)
def run_train(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Pass all words to Hydra, so its options work too. --help lists the settings in conf/."""
    from samebits import compose
    from samebits.studies import folds

    return compose.main(root, given.words, folds.train)


@command(
    "run",
    "daily",
    "run a script as it is: each call of fit trains as samebits train does",
    "samebits run script.py seed.root=56 -- --epochs 3",
    [
        argument("--runs", type=pathlib.Path, metavar="FOLDER", help="where the runs are (default: runs/ here)"),
        SETTINGS,
    ],
)
def run_run(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Run a script. The words after -- are its own arguments."""
    from samebits.checks.source_scan import scan_script
    from samebits.launch import run
    from samebits.runs.identity import script_files

    if not any(map(is_script, given.overrides)):
        raise UsageError(
            "script", expected="a path that ends in .py or .ipynb", received="none", fix="samebits run script.py"
        )
    config = composer(root, given.overrides, given.own)([])
    if given.runs:
        config.paths.runs = str(given.runs.resolve())
    for found in scan_script(script_files(config, root)):
        print(f"warning: {found}", file=sys.stderr)
    return run.run(config, root).exit_code


@command("resume", "daily", "resume a stopped run with its own configuration", "samebits resume last", [RUN])
def run_resume(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Resume one run."""
    from samebits.launch import run

    (attempt,) = find_attempts(root, given.run)
    return run.resume(attempt, root).exit_code


@command(
    "predict",
    "daily",
    "write what the model of a run outputs for a split, or for new data of the same data function",
    "samebits predict last --split test",
    [
        RUN,
        argument("data", nargs="*", metavar="data.key=value", help="other arguments of the data function"),
        argument("--split", default="validation", choices=("train", "validation", "test"), help="default: validation"),
        argument("--out", type=pathlib.Path, metavar="FILE", help=".csv or .npz (default: a .csv in the run's folder)"),
    ],
)
def run_predict(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Predict with the model of one run."""
    from samebits.launch import predict

    words = given.data
    if "=" in given.run:  # no run was given
        words, given.run = [given.run, *words], "last"
    (attempt,) = find_attempts(root, given.run)
    return predict.predict(attempt, root, given.split, predict.parse_data(words), given.out)


@command(
    "explain",
    "daily",
    "show why two runs differ: the input, epoch, step and tensor",
    "samebits explain last~1 last",
    [argument("a", nargs="?", default="last~1", metavar="A"), argument("b", nargs="?", default="last", metavar="B")],
)
def run_explain(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Compare two runs and print why they differ."""
    from samebits.checks import explain

    a, b = find_attempts(root, given.a, given.b)
    return explain.explain(a, b, root)


@command(
    "report",
    "daily",
    "write an HTML page that shows and compares runs",
    "samebits report last last~1 --out report.html",
    [
        argument("runs", nargs="*", metavar="RUN", help="default: every finished run"),
        argument(
            "--out",
            type=pathlib.Path,
            default=pathlib.Path("report.html"),
            metavar="FILE",
            help="the page (default: report.html)",
        ),
    ],
)
def run_report(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Write the report."""
    from samebits.studies.report import report

    return report.report(root / "runs", given.runs, given.out)


@command("watch", "daily", "show running trainings; Ctrl-C closes the display only", "samebits watch")
def run_watch(_given: argparse.Namespace, root: pathlib.Path) -> int:
    """Show the running trainings."""
    from samebits.studies import watch

    return watch.watch(root / "runs")


@command(
    "seeds",
    "daily",
    "print all seed points with value, source and consumer",
    "samebits seeds seed.root=57",
    [OVERRIDES],
)
def run_seeds(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Print the table of seed points."""
    from rich.table import Table

    from samebits.core.config_rules import check
    from samebits.core.seeds import Seeds
    from samebits.core.terminal import print_table
    from samebits.runs.identity import recorded_points

    config = composer(root, given.overrides)([])
    check(config)
    recorded = recorded_points(config, root)
    table = Table("seed point", "value", "source", "consumer", title=f"root seed {config.seed.root}")
    for row in Seeds.of(config.seed).table_with(recorded):
        consumer = f"none: {row['rests']}" if row["rests"] else row["consumer"]
        table.add_row(row["point"], "-" if row["value"] is None else str(row["value"]), row["source"], consumer)
    print_table(table)
    if not recorded:
        print("No run of this code and configuration is recorded: its weights and layers may have more seed points.")
    return 0


@command("comet", "daily", "log a saved run to Comet again; COMET_API_KEY uploads it", "samebits comet last", [RUN])
def run_comet(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Log one run to Comet from its files and print where it is. Without COMET_API_KEY it becomes an archive."""
    import logging

    from samebits.launch import comet, tracker
    from samebits.runs.folder import read_json

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    (attempt,) = find_attempts(root, given.run)
    code = tracker.upload(attempt)
    if code == 0:
        print(read_json(attempt / comet.FOLDER / comet.STATE)["summary"])
    return code


# --- prove the promise ---


@command(
    "verify",
    "prove",
    "train the same run under different conditions and compare",
    "samebits verify --runs 2 seed.root=56",
    [
        argument("--runs", type=int, default=2, metavar="N", help="number of trainings (default: 2)"),
        argument("--quick", action="store_true", help="train 300 steps only"),
        SETTINGS,
    ],
)
def run_verify(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Verify one configuration."""
    from samebits.checks import verify

    quick = ["training.epochs=1", "training.steps_per_epoch=300"] if given.quick else []
    return verify.verify(composer(root, [*quick, *given.overrides], given.own)([]), root, given.runs)


@command(
    "check-script",
    "prove",
    "run a script twice and tell why the results differ, with the changes that make it repeat",
    "samebits check-script script.py -- --epochs 1",
    [
        argument("--seconds", type=float, default=600.0, metavar="S", help="how long one run may take (default: 600)"),
        SETTINGS,
    ],
)
def run_check_script(given: argparse.Namespace, root: pathlib.Path) -> int:  # noqa: ARG001  the current folder counts
    """Check a script. The words after -- are its own arguments."""
    from samebits.checks.script import check_script

    if len(given.overrides) != 1 or not is_script(given.overrides[0]):
        raise UsageError(
            "script", expected="one path that ends in .py or .ipynb", received=" ".join(given.overrides) or "none",
            fix="samebits check-script script.py -- the script's own arguments",
        )  # fmt: skip
    return check_script.check_script(pathlib.Path(given.overrides[0]), given.own, given.seconds)


@command(
    "golden",
    "prove",
    "train experiments and compare with the committed digests",
    "samebits golden smoke",
    [
        argument("experiments", nargs="*", metavar="EXPERIMENT", help="default: all with a file in golden/"),
        argument("--update", action="store_true", help="rewrite the files in golden/ and show what changed"),
    ],
)
def run_golden(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Check or update the reference digests in golden/."""
    from samebits.checks import golden

    return golden.run(given.experiments, composer(root, []), root, write=given.update)


@command(
    "audit",
    "prove",
    "change one seed at a time and check that only its consumer changes",
    "samebits audit data/order model/conv/kernel",
    [argument("words", nargs="*", metavar="POINT | key=value", help="seed points (default: all), and settings")],
)
def run_audit(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Audit seed points, of the smoke experiment by default."""
    from samebits.checks import audit

    own = [word for word in given.words if is_override(word)]
    smoke = [] if names_experiment(own) else ["experiment=smoke"]
    compose = composer(root, [*smoke, "tracker=none", *own])
    return audit.audit(compose, root, [word for word in given.words if not is_override(word)])


@command(
    "portability",
    "prove",
    "train on this CPU and on emulated CPUs, and compare",
    "samebits portability --cpus Haswell,EPYC",
    [
        argument("--full", action="store_true", help="complete trainings instead of 20 steps"),
        argument("--cpus", default="", metavar="A,B", help="default: all CPUs with AVX2 that qemu-x86_64 emulates"),
        OVERRIDES,
    ],
)
def run_portability(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Compare CPUs."""
    from samebits.checks import portability

    config = composer(root, ["tracker=none", *given.overrides])([])
    names = [name for name in given.cpus.split(",") if name]
    return portability.portability(config, root, names, full=given.full)


@command(
    "torture",
    "prove",
    "kill trainings at random moments, resume them, and compare",
    "samebits torture --kills 20 --kill-seed 7",
    [
        argument("--kills", type=at_least_one, default=20, metavar="N", help="number of kills (default: 20)"),
        argument("--kill-seed", type=int, metavar="SEED", help="seed of the random moments (default: random, printed)"),
        argument("--real", action="store_true", help="use the main training instead of the smoke experiment"),
        OVERRIDES,
    ],
)
def run_torture(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Kill and resume trainings."""
    from samebits.checks import torture

    small = [] if given.real or names_experiment(given.overrides) else ["experiment=smoke", "training.epochs=4"]
    return torture.torture(composer(root, [*small, *given.overrides])([]), root, given.kills, given.kill_seed)


@command(
    "rounds",
    "prove",
    "repeat the article's experiments: no seeds, data seeds only, all seeds",
    "samebits rounds seed.root=56",
    [OVERRIDES],
)
def run_rounds(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Train two runs per round and compare them."""
    from samebits.checks import rounds

    return rounds.rounds(composer(root, given.overrides), root, root / "runs" / "rounds.png")


# --- many runs ---

SEEDS_HELP = "such as 1..20, 1,5,9 or 1..3,7"


@command(
    "study",
    "statistics",
    "train many seeds and summarize them; --versus compares two configurations",
    'samebits study --seeds 1..20 --versus "model.dropout_rate=0.5"',
    [
        argument("--seeds", default="1..20", help=f"{SEEDS_HELP} (default: 1..20)"),
        argument("--versus", default="", metavar="'key=value …'", help="settings of the second configuration"),
        *LAUNCHING,
        SETTINGS,
    ],
)
def run_study(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Train and summarize a study."""
    import shlex

    from samebits.studies import study

    launch, own = launch_of(given)
    return study.run_study(composer(root, own, given.own), root, given.seeds, shlex.split(given.versus), launch)


@command(
    "variance",
    "statistics",
    "measure how much variance each source of randomness causes",
    "samebits variance --seeds 1..10",
    [argument("--seeds", default="1..10", help=f"{SEEDS_HELP} (default: 1..10)"), *LAUNCHING, OVERRIDES],
)
def run_variance(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Train and summarize a variance study."""
    from samebits.studies import variance

    launch, own = launch_of(given)
    return variance.run_variance(composer(root, own), root, given.seeds, launch)


@command(
    "bagging",
    "statistics",
    "train on bootstrap samples and average the models",
    "samebits bagging --bags 10",
    [argument("--bags", default="10", metavar="N", help="number of models (default: 10)"), *LAUNCHING, OVERRIDES],
)
def run_bagging(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Train and average the bags."""
    from samebits.studies import bagging

    launch, own = launch_of(given)
    return bagging.run_bagging(composer(root, own), root, given.bags, launch)


# --- in a container ---


@command("image build", "container", "build the image", "samebits image build --engine podman", [*BUILDING, TARGET])
def run_image_build(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Build the image unless it is up to date."""
    from samebits.image import container

    return container.main(root, given, "build")


@command(
    "image verify",
    "container",
    "build the image twice and compare every file",
    "samebits image verify",
    [
        *BUILDING,
        argument("--second", default="", metavar="ENGINE", help="engine of the second build (default: the same)"),
    ],
)
def run_image_verify(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Build the image twice and compare."""
    from samebits.image import container

    given.target = "train"
    return container.main(root, given, "verify")


@command(
    "image sbom",
    "container",
    "print what the image is made from, as a CycloneDX SBOM",
    "samebits image sbom",
    BUILDING[2:],
)
def run_image_sbom(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Print the list."""
    from samebits.image import container, sbom

    container.check_variant(root, given.variant)
    print(sbom.describe(root, given.base, given.variant))
    return 0


@command(
    "image train",
    "container",
    "train in a container without network and with a read-only root",
    "samebits image train seed.root=56",
    [*RUNNING, OVERRIDES],
)
def run_image_train(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Train in the container."""
    from samebits.image import container

    given.target = "train"
    return container.main(root, given, "run", [".venv/bin/samebits", "train", *given.overrides])


@command(
    "image test",
    "container",
    "run fast tests in a container",
    'samebits image test --tests "tests/core -k seeds"',
    [*RUNNING, argument("--tests", default=IN_IMAGE, metavar="'OPTION …'", help=f"for pytest (default: {IN_IMAGE})")],
)
def run_image_test(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Run the tests in the container. pytest's cache is off because the root is read-only."""
    from samebits.image import container

    given.target = "test"
    return container.main(root, given, "run", ["make", "test", f"TESTS=-p no:cacheprovider {given.tests}".rstrip()])


@command(
    "image run",
    "container",
    "run any command in a container",
    "samebits image run .venv/bin/samebits golden smoke",
    [
        *RUNNING,
        TARGET,
        argument("program", metavar="COMMAND", help="a program in the image"),
        argument("words", nargs=argparse.REMAINDER, metavar="...", help="its arguments"),
    ],
)
def run_image_run(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Run a command in the container."""
    from samebits.image import container

    return container.main(root, given, "run", [given.program, *given.words])


# --- maintenance ---


@command("doctor", "maintenance", "list reproducibility risks in this project", "samebits doctor")
def run_doctor(_given: argparse.Namespace, root: pathlib.Path) -> int:
    """Check the project."""
    from samebits.checks import doctor

    return doctor.run(root, composer(root, []), os.environ)


@command(
    "prune",
    "maintenance",
    "list old, stopped and leftover runs with their size; --yes removes them",
    "samebits prune --keep 2 --yes",
    [
        argument("--keep", type=int, metavar="N", help="finished attempts to keep of each run (default: all)"),
        argument("--runs", type=pathlib.Path, metavar="FOLDER", help="default: runs/ of the project"),
        YES,
    ],
)
def run_prune(given: argparse.Namespace, root: pathlib.Path) -> int:
    """List or remove old runs."""
    from samebits.runs import prune

    return prune.prune(given.runs or root / "runs", given.keep, confirmed=given.yes)


@command(
    "clean",
    "maintenance",
    "list caches with their size; --yes removes them, runs stay",
    "samebits clean --yes",
    [YES],
)
def run_clean(given: argparse.Namespace, root: pathlib.Path) -> int:
    """List or remove caches."""
    from samebits.runs import prune

    return prune.clean(root, confirmed=given.yes)


@command(
    "new",
    "maintenance",
    "create your own project from this one",
    "samebits new ../my-study --name my-study",
    [
        argument("dest", metavar="DEST", type=pathlib.Path, help="a new folder"),
        argument("--name", default="", help="name of the project; without it the command asks, or takes DEST's name"),
    ],
)
def run_new(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Create a project with copier, from the commit that is checked out."""
    check_copier(root, "copier.yml", "samebits new", fix="run it in the samebits repository")
    git = ["git", "-C", str(root), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    answers = ["--defaults"] if given.name or not sys.stdin.isatty() else []
    name = given.name or given.dest.resolve().name
    if answers and not re.fullmatch(PROJECT_NAME, name):
        raise UsageError(
            "name", expected="a letter first, then letters and digits, with single - _ or . between them",
            received=name, fix="samebits new DEST --name my-study",
        )  # fmt: skip
    answers += [f"--data=name={given.name}"] if given.name else []
    words = ["copy", f"--vcs-ref={commit}", *answers, str(root), str(given.dest)]
    return subprocess.run([sys.executable, "-m", "copier", *words], check=False).returncode


def check_copier(root: pathlib.Path, needed: str, command: str, *, fix: str) -> None:
    """Check that Copier and git can be used in this project.

    Raises:
        UsageError: A file, a program or the package is missing.
    """
    if not (root / needed).exists():
        raise UsageError(command, expected=f"a project with {needed}", received=str(root), fix=fix)
    if shutil.which("git") is None:
        raise UsageError(command, expected="git", received="no such program", fix="install git")
    if importlib.util.find_spec("copier") is None:
        raise UsageError(command, expected="the package copier", received="not installed", fix="run make setup-dev")


@command(
    "update",
    "maintenance",
    "update samebits in a project that was created with `samebits new`",
    "samebits update --to v1.2.0",
    [argument("--to", default="", metavar="VERSION", help="a tag or commit (default: the latest)")],
)
def run_update(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Update the project with copier."""
    check_copier(root, ".copier-answers.yml", "samebits update", fix="run it in a project that samebits new created")
    version = [f"--vcs-ref={given.to}"] if given.to else []
    words = ["update", "--defaults", *version]
    return subprocess.run([sys.executable, "-m", "copier", *words], cwd=root, check=False).returncode


@command(
    "completion",
    "maintenance",
    "print the shell's completion script",
    'eval "$(samebits completion bash)"',
    [argument("shell", choices=("bash", "zsh", "fish"))],
)
def run_completion(given: argparse.Namespace, _root: pathlib.Path) -> int:
    """Print the completion script of a shell."""
    from samebits.completion import SCRIPTS

    print(SCRIPTS[given.shell], end="")
    return 0


def complete(line: str, root: pathlib.Path | None) -> int:
    """Print the completions of the last word of a command line, one per line. The completion scripts call it."""
    from samebits.completion import candidates

    options = {
        name: [*(word for each in one.arguments or () for word in completed_words(each)), "--help"]
        for name, one in COMMANDS.items()
    }
    settable = [name for name, one in COMMANDS.items() if one.arguments is None or takes_settings(one.arguments)]
    try:
        root = root or find_root(pathlib.Path.cwd())
    except UsageError:
        settable = []
    print("\n".join(candidates(line, options, settable, root)))
    return 0


def completed_words(one: Argument) -> Sequence[str]:
    """Return the completions of an argument: an option's name, or its choices."""
    if one.names[0].startswith("-"):
        return one.names
    return tuple(one.settings.get("choices", ()))


def takes_settings(arguments: Sequence[Argument]) -> bool:
    """Return whether a command accepts key=value."""
    return any("key=value" in one.settings.get("metavar", "") for one in arguments if one.names[0][0] != "-")


# --- the command line itself ---


USAGE = "samebits [--root FOLDER] COMMAND …"


def summaries(names: Sequence[str]) -> list[str]:
    """Return a line for each command: its name and its summary."""
    width = max(map(len, COMMANDS))
    return [f"  {name:{width}}  {COMMANDS[name].summary}" for name in names]


def overview() -> str:
    """Return the text of `samebits --help`."""
    lines = [f"usage: {USAGE}", "", "Same seed, same bits: train, and prove it."]
    for group, title in GROUPS.items():
        lines += ["", f"{title}:", *summaries([one.name for one in COMMANDS.values() if one.group == group])]
    lines += [
        "",
        "samebits COMMAND --help   options of a command, with an example",
        "samebits train --help     all settings in conf/; most commands accept them as key=value",
        "--root FOLDER             the project (default: this folder or the nearest above it with conf/config.yaml)",
    ]
    return "\n".join(lines) + "\n"


def is_command(words: Sequence[str], place: int) -> bool:
    """Return whether the word at a place is a command, not an option or the folder of --root."""
    return not words[place].startswith("-") and words[place - 1 : place] != ["--root"]


def names_after(word: str) -> list[str]:
    """Return the commands of two words that start with a word, such as "image"."""
    return [name for name in COMMANDS if name.startswith(f"{word} ")]


class _Parser(argparse.ArgumentParser):
    def format_help(self) -> str:
        return overview()


def find_command(words: Sequence[str]) -> Command:
    """Return the command that a command line names, with one word or two.

    Raises:
        UsageError: The command does not exist.
    """
    for name in (" ".join(words[:2]), words[0]):
        if name in COMMANDS:
            return COMMANDS[name]
    named = names_after(words[0])
    likely = named or difflib.get_close_matches(words[0], COMMANDS, n=1)
    raise UsageError(
        "command",
        expected=" or ".join(named) or "a command that samebits --help lists",
        received=repr(" ".join(words[:2]) if named else words[0]),
        fix=f"samebits {likely[0]}" if likely else "samebits --help",
    )


def check_python() -> None:
    """Refuse an untested version of Python.

    Raises:
        ConfigError: Python is older than 3.11 or newer than 3.13.
    """
    if not OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        raise ConfigError(
            "Python",
            expected="3.11 to 3.13",
            received=".".join(map(str, sys.version_info[:3])),
            fix="make setup PYTHON=/path/to/python3.12",
        )


def find_folder(name: str) -> pathlib.Path:
    """Return the project's folder, or this folder if there is no project and the command does not need one.

    Raises:
        UsageError: The command needs a project.
    """
    try:
        return find_root(pathlib.Path.cwd())
    except UsageError:
        if name in WITHOUT_PROJECT:
            return pathlib.Path.cwd()
        raise


def dispatch(words: list[str], root: pathlib.Path | None) -> int:
    """Run the command that the words name.

    Raises:
        UsageError: The command does not exist, no project was found, or a package is missing.
    """
    if words[0] == "complete":  # called by the completion scripts
        return complete(" ".join(words[1:]), root)
    if names_after(words[0]) and words[1:] in (["--help"], ["-h"]):
        print("\n".join([f"usage: samebits {words[0]} COMMAND …", "", *summaries(names_after(words[0]))]))
        return 0
    chosen = find_command(words)
    given = chosen.parse(words[len(chosen.name.split()) :])
    if chosen.group != "container":  # those run the Python of the image
        check_python()
    if root is None and chosen.name != "completion":
        root = find_folder(chosen.name)
    try:
        return chosen.handler(given, root or pathlib.Path.cwd())
    except ModuleNotFoundError as error:
        raise UsageError(
            f"package {error.name}",
            expected="the project's environment",
            received=f"{sys.executable}, where it is not installed",
            fix="make setup, then .venv/bin/samebits …",
        ) from error


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; wrong usage is 2.

    Args:
        words: The words after the program's name. None: those of this process.
    """
    words = list(sys.argv[1:] if words is None else words) or ["--help"]
    parser = _Parser(prog="samebits", usage=USAGE, allow_abbrev=False)
    parser.add_argument("--root", type=pathlib.Path)
    start = next((place for place, word in enumerate(words) if is_command(words, place)), len(words))
    given = parser.parse_args(words[:start])
    if not words[start:]:
        parser.error("a command is missing; samebits --help lists all commands")
    try:
        return report_errors(lambda: dispatch(words[start:], given.root and find_root(given.root)))
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
