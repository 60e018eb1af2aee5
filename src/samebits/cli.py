"""The command line: `samebits`, with a sub-command for everything that a user types.

Imports only the standard library. Each command imports its room when it runs: so `samebits --help` answers at once, and
`samebits image` works without the project's environment.
"""

import argparse
import difflib
import os
import pathlib
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

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
GROUPS = {
    "daily": "Every day",
    "prove": "Prove the promise",
    "statistics": "Many runs",
    "container": "In a container (needs no environment)",
    "maintenance": "Maintenance",
}

Handler = Callable[[argparse.Namespace, pathlib.Path], int]


@dataclass(frozen=True)
class Argument:
    """One argument of a command, as argparse's `add_argument` takes it."""

    names: tuple[str, ...]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: One word, or two: "image build".
        group: A key of `GROUPS`.
        summary: One line.
        example: A whole command line.
        arguments: Its options and words; None: it gets every word as it is, in `words`.
        handler: Gets the parsed arguments and the project's folder; returns an exit code.
    """

    name: str
    group: str
    summary: str
    example: str
    arguments: tuple[Argument, ...] | None
    handler: Handler

    def parser(self) -> argparse.ArgumentParser:
        """Return the parser of what follows the command's name."""
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
        """Return the parsed arguments; options may stand between the words."""
        if self.arguments is None:
            return argparse.Namespace(words=words)
        if any(argument.settings.get("nargs") == argparse.REMAINDER for argument in self.arguments):
            return self.parser().parse_args(words)
        return self.parser().parse_intermixed_args(words)


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
    """Return the number that a word stands for.

    Raises:
        argparse.ArgumentTypeError: It is no integer, or below 1.
    """
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, received {text!r}")
    return int(text)


OVERRIDES = argument(
    "overrides", nargs="*", metavar="key=value", help="settings of conf/; samebits train --help lists them"
)
RUN = argument("run", nargs="?", default="last", metavar="RUN", help="last, last~1, a folder, or a name as printed")
YES = argument("--yes", action="store_true", help="remove it; without this option it is only listed")
LAUNCHING = (
    argument("--launcher", default="", help="basic, joblib (default), submitit_local or submitit_slurm"),
    argument("--jobs", default="", metavar="N", help="runs at the same time; default: one per core"),
)
BUILDING = (
    argument("--engine", default="", help="docker, podman or buildah; default: the first that works"),
    argument("--tag", default="", help="the image's name; default: the project's"),
    argument("--base", default="", metavar="IMAGE", help="another base image than the Dockerfile's"),
    argument("--variant", default="cpu", choices=("cpu", "gpu")),
)
TARGET = argument("--target", default="train", choices=("train", "test"), help="test adds the test and lint tools")
RUNNING = (
    *BUILDING,
    argument("--as-is", action="store_true", help="run the image that is there, current or not"),
    argument("--mounts", type=pathlib.Path, metavar="FOLDER", help="has runs and .cache; default: the project"),
    argument("--user", default="", metavar="UID:GID", help="in the container; default: yours"),
    argument("--network", default="none", help="default: none"),
)


def is_override(word: str) -> bool:
    """Return whether a word is an override of Hydra's, not a name."""
    return "=" in word or word[:1] in {"~", "+"}


def names_experiment(overrides: Sequence[str]) -> bool:
    """Return whether an override chooses the experiment."""
    return any(word.startswith("experiment=") for word in overrides)


def composer(root: pathlib.Path, overrides: Sequence[str]) -> "Callable[[list[str]], Config]":
    """Return the function that composes a configuration from some overrides and those that it is called with."""
    from samebits.compose import compose

    return lambda more: compose(root, [*overrides, *more])


def launch_of(given: argparse.Namespace) -> "tuple[LauncherOptions, list[str]]":
    """Return how a study's runs are started, and the overrides that are not the launcher's own."""
    from samebits.studies.execute import LauncherOptions

    settings = tuple(word for word in given.overrides if word.startswith("hydra."))
    return LauncherOptions(given.launcher, given.jobs, settings), [
        word for word in given.overrides if word not in settings
    ]


def find_attempts(root: pathlib.Path, *names: str) -> list[pathlib.Path]:
    """Return the folders of some attempts below the project's runs."""
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
    """Hand every word to Hydra: its options work too, and --help lists what conf/ has."""
    from samebits import compose
    from samebits.studies import folds

    return compose.main(root, given.words, folds.train)


@command("resume", "daily", "continue a stopped run with its own configuration", "samebits resume last", [RUN])
def run_resume(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Resume one run."""
    from samebits.launch import run

    (attempt,) = find_attempts(root, given.run)
    return run.resume(attempt, root).exit_code


@command(
    "explain",
    "daily",
    "say why two runs differ: the input, epoch, step and tensor",
    "samebits explain last~1 last",
    [argument("a", nargs="?", default="last~1", metavar="A"), argument("b", nargs="?", default="last", metavar="B")],
)
def run_explain(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Explain two runs."""
    from samebits.checks import explain

    a, b = find_attempts(root, given.a, given.b)
    return explain.explain(a, b, root)


@command(
    "report",
    "daily",
    "write runs as one HTML page",
    "samebits report last last~1 --out report.html",
    [
        argument("runs", nargs="*", metavar="RUN", help="default: every finished run"),
        argument("--out", type=pathlib.Path, default=pathlib.Path("report.html"), metavar="FILE"),
    ],
)
def run_report(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Write the report."""
    from samebits.studies.report import report

    return report.report(root / "runs", given.runs, given.out)


@command("watch", "daily", "show the trainings that run now; Ctrl-C ends it and no training", "samebits watch")
def run_watch(_given: argparse.Namespace, root: pathlib.Path) -> int:
    """Watch the runs."""
    from samebits.studies import watch

    return watch.watch(root / "runs")


@command(
    "seeds",
    "daily",
    "print every seed point: value, source, consumer",
    "samebits seeds seed.root=57",
    [OVERRIDES],
)
def run_seeds(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Print the table of seed points."""
    from rich.table import Table

    from samebits.core.config_rules import check
    from samebits.core.seeds import describe_consumer, resolve_points
    from samebits.core.terminal import print_table

    config = composer(root, given.overrides)([])
    check(config)
    table = Table("seed point", "value", "source", "consumer", title=f"root seed {config.seed.root}")
    for name, point in resolve_points(config.seed.root, config.seed.policy, config.seed.points).items():
        table.add_row(name, "-" if point.value is None else str(point.value), point.source, describe_consumer(name))
    print_table(table)
    return 0


@command("comet", "daily", "upload a run to Comet from its folder", "samebits comet last", [RUN])
def run_comet(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Rebuild one run's experiment, online with COMET_API_KEY and else as an archive, and print where it is."""
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
    "train the same inputs several times under hostile conditions and compare",
    "samebits verify --runs 2 seed.root=56",
    [
        argument("--runs", type=int, default=2, metavar="N", help="how many trainings (default: 2)"),
        argument("--quick", action="store_true", help="300 steps instead of a whole training"),
        OVERRIDES,
    ],
)
def run_verify(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Verify one configuration."""
    from samebits.checks import verify

    quick = ["training.epochs=1", "training.steps_per_epoch=300"] if given.quick else []
    return verify.verify(composer(root, [*quick, *given.overrides])([]), root, given.runs)


@command(
    "golden",
    "prove",
    "recompute the committed digests and compare",
    "samebits golden smoke",
    [
        argument("experiments", nargs="*", metavar="EXPERIMENT", help="default: all that have a file in golden/"),
        argument("--update", action="store_true", help="write the files anew, and show what changed"),
    ],
)
def run_golden(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Check or write golden files."""
    from samebits.checks import golden

    return golden.run(given.experiments, composer(root, []), root, write=given.update)


@command(
    "audit",
    "prove",
    "change every seed point alone and see what moves",
    "samebits audit data/order model/conv/kernel",
    [argument("words", nargs="*", metavar="POINT | key=value", help="seed points (default: all), and settings")],
)
def run_audit(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Audit seed points, of the smoke experiment where no other is named."""
    from samebits.checks import audit

    own = [word for word in given.words if is_override(word)]
    smoke = [] if names_experiment(own) else ["experiment=smoke"]
    compose = composer(root, [*smoke, "tracker=none", *own])
    return audit.audit(compose, root, [word for word in given.words if not is_override(word)])


@command(
    "portability",
    "prove",
    "train on this CPU and on emulated ones and compare",
    "samebits portability --cpus Haswell,EPYC",
    [
        argument("--full", action="store_true", help="whole trainings instead of 20 steps"),
        argument("--cpus", default="", metavar="A,B", help="default: all that qemu-x86_64 emulates with AVX2"),
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
    "kill trainings at random moments, resume them and compare",
    "samebits torture --kills 20 --kill-seed 7",
    [
        argument("--kills", type=at_least_one, default=20, metavar="N", help="default: 20"),
        argument("--kill-seed", type=int, metavar="SEED", help="of the random moments; default: a new one, printed"),
        argument("--real", action="store_true", help="the main training instead of the smoke experiment"),
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
    "reproduce the article's rounds, from nothing seeded to everything pinned",
    "samebits rounds seed.root=56",
    [OVERRIDES],
)
def run_rounds(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Train the rounds."""
    from samebits.checks import rounds

    return rounds.rounds(composer(root, given.overrides), root, root / "runs" / "rounds.png")


# --- many runs ---

SEEDS_HELP = "such as 1..20, 1,5,9 or 1..3,7"


@command(
    "study",
    "statistics",
    "train many seeds and summarize; with --versus, compare two configurations",
    'samebits study --seeds 1..20 --versus "model.dropout_rate=0.5"',
    [
        argument("--seeds", default="1..20", help=f"{SEEDS_HELP} (default: 1..20)"),
        argument("--versus", default="", metavar="'key=value …'", help="settings of a second configuration"),
        *LAUNCHING,
        OVERRIDES,
    ],
)
def run_study(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Train and summarize a study."""
    import shlex

    from samebits.studies import study

    launch, own = launch_of(given)
    return study.run_study(composer(root, own), root, given.seeds, shlex.split(given.versus), launch)


@command(
    "variance",
    "statistics",
    "say how much of the spread each source of randomness carries",
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
    [argument("--bags", default="10", metavar="N", help="how many models (default: 10)"), *LAUNCHING, OVERRIDES],
)
def run_bagging(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Train and average the bags."""
    from samebits.studies import bagging

    launch, own = launch_of(given)
    return bagging.run_bagging(composer(root, own), root, given.bags, launch)


# --- in a container ---


@command("image build", "container", "build the image", "samebits image build --engine podman", [*BUILDING, TARGET])
def run_image_build(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Build the image, unless it is current."""
    from samebits.image import container

    return container.main(root, given, "build")


@command("image verify", "container", "build the image twice and compare every file", "samebits image verify", BUILDING)
def run_image_verify(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Build the image twice."""
    from samebits.image import container

    return container.main(root, given, "verify")


@command(
    "image train",
    "container",
    "train in the container, without network and on a read-only root",
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
    "run the tests in the container",
    'samebits image test --tests "-k seeds"',
    [*RUNNING, argument("--tests", default="", metavar="'OPTION …'", help="options of pytest")],
)
def run_image_test(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Run the tests in the container; pytest keeps no cache there, for the root is read-only."""
    from samebits.image import container

    given.target = "test"
    return container.main(root, given, "run", ["make", "test", f"TESTS=-p no:cacheprovider {given.tests}".rstrip()])


@command(
    "image run",
    "container",
    "run any command in the container",
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


@command("doctor", "maintenance", "list what weakens the promise in this project", "samebits doctor")
def run_doctor(_given: argparse.Namespace, root: pathlib.Path) -> int:
    """Examine the project."""
    from samebits.checks import doctor

    return doctor.run(root, composer(root, []), os.environ)


@command(
    "prune",
    "maintenance",
    "list what old, stopped and leftover runs take, and remove it with --yes",
    "samebits prune --keep 2 --yes",
    [
        argument("--keep", type=int, metavar="N", help="finished attempts per inputs that stay; default: all"),
        argument("--runs", type=pathlib.Path, metavar="FOLDER", help="default: the project's runs"),
        YES,
    ],
)
def run_prune(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Prune runs."""
    from samebits.runs import prune

    return prune.prune(given.runs or root / "runs", given.keep, confirmed=given.yes)


@command(
    "clean",
    "maintenance",
    "list what the caches take, and remove them with --yes; never runs",
    "samebits clean --yes",
    [YES],
)
def run_clean(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Remove caches."""
    from samebits.runs import prune

    return prune.clean(root, confirmed=given.yes)


@command(
    "new",
    "maintenance",
    "make a project of your own from this one",
    "samebits new ../my-study --name my-study",
    [
        argument("dest", metavar="DEST", type=pathlib.Path, help="a folder that is not there yet"),
        argument("--name", default="", help="of the project; without it the command asks"),
    ],
)
def run_new(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Copy the project with copier, at the commit that is checked out."""
    git = ["git", "-C", str(root), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    answers = ["--defaults", f"--data=name={given.name}"] if given.name else []
    words = ["copy", f"--vcs-ref={commit}", *answers, str(root), str(given.dest)]
    return subprocess.run([sys.executable, "-m", "copier", *words], check=False).returncode


@command(
    "update",
    "maintenance",
    "update the harness in a project that was made from this one",
    "samebits update --to v1.2.0",
    [argument("--to", default="", metavar="VERSION", help="a tag or commit; default: the latest")],
)
def run_update(given: argparse.Namespace, root: pathlib.Path) -> int:
    """Update the project with copier."""
    version = [f"--vcs-ref={given.to}"] if given.to else []
    words = ["update", "--defaults", *version]
    return subprocess.run([sys.executable, "-m", "copier", *words], cwd=root, check=False).returncode


@command(
    "completion",
    "maintenance",
    "print a script that completes commands, options and settings",
    'eval "$(samebits completion bash)"',
    [argument("shell", choices=("bash", "zsh", "fish"))],
)
def run_completion(given: argparse.Namespace, _root: pathlib.Path) -> int:
    """Print the script."""
    from samebits.completion import SCRIPTS

    print(SCRIPTS[given.shell], end="")
    return 0


def complete(line: str, root: pathlib.Path | None) -> int:
    """Print what may stand in place of the last word of a command line, one per line; for `completion`'s scripts."""
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
    """Return what a shell completes for an argument: an option's long name, or the words to choose from."""
    if one.names[0].startswith("-"):
        return one.names
    return tuple(one.settings.get("choices", ()))


def takes_settings(arguments: Sequence[Argument]) -> bool:
    """Return whether a command takes key=value."""
    return any("key=value" in one.settings.get("metavar", "") for one in arguments if one.names[0][0] != "-")


# --- the command line itself ---


USAGE = "samebits [--root FOLDER] COMMAND …"


def overview() -> str:
    """Return what `samebits --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"usage: {USAGE}", "", "Same seed, same bits: train, and prove it."]
    for group, title in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {one.name:{width}}  {one.summary}" for one in COMMANDS.values() if one.group == group]
    lines += [
        "",
        "samebits COMMAND --help   options of a command, with an example",
        "samebits train --help     every setting of conf/, to be written as key=value after most commands",
        "--root FOLDER             the project; default: the nearest folder, here or above, with conf/config.yaml",
    ]
    return "\n".join(lines) + "\n"


def is_command(words: Sequence[str], place: int) -> bool:
    """Return whether a command begins at a place: neither an option nor the folder of --root."""
    return not words[place].startswith("-") and words[place - 1 : place] != ["--root"]


class _Parser(argparse.ArgumentParser):
    def format_help(self) -> str:
        return overview()


def find_command(words: Sequence[str]) -> Command:
    """Return the command that a command line begins with, of one word or two.

    Raises:
        UsageError: There is no such command.
    """
    for name in (" ".join(words[:2]), words[0]):
        if name in COMMANDS:
            return COMMANDS[name]
    named = [name for name in COMMANDS if name.startswith(f"{words[0]} ")]
    likely = named or difflib.get_close_matches(words[0], COMMANDS, n=1)
    raise UsageError(
        "command",
        expected=" or ".join(named) or "one that samebits --help lists",
        received=repr(" ".join(words[:2]) if named else words[0]),
        fix=f"samebits {likely[0]}" if likely else "samebits --help",
    )


def check_python() -> None:
    """Refuse a Python for which nothing was measured.

    Raises:
        ConfigError: It is older than 3.11 or newer than 3.13.
    """
    if not OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        raise ConfigError(
            "Python",
            expected="3.11 to 3.13",
            received=".".join(map(str, sys.version_info[:3])),
            fix="make setup PYTHON=/path/to/python3.12",
        )


def dispatch(words: list[str], root: pathlib.Path | None) -> int:
    """Run the command that some words name.

    Raises:
        UsageError: There is no such command, no project, or not its environment.
    """
    if words[0] == "complete":  # for the scripts of `completion`
        return complete(" ".join(words[1:]), root)
    chosen = find_command(words)
    given = chosen.parse(words[len(chosen.name.split()) :])
    if chosen.group != "container":  # its Python is the image's
        check_python()
    if root is None and chosen.name != "completion":
        root = find_root(pathlib.Path.cwd())
    try:
        return chosen.handler(given, root or pathlib.Path.cwd())
    except ModuleNotFoundError as error:
        raise UsageError(
            f"package {error.name}",
            expected="the project's environment",
            received=f"{sys.executable}, which does not have it",
            fix="make setup, then .venv/bin/samebits …",
        ) from error


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; wrong usage is 2.

    Args:
        words: Without the program's name; None: those of this process.
    """
    words = list(sys.argv[1:] if words is None else words) or ["--help"]
    parser = _Parser(prog="samebits", usage=USAGE, allow_abbrev=False)
    parser.add_argument("--root", type=pathlib.Path)
    start = next((place for place, word in enumerate(words) if is_command(words, place)), len(words))
    given = parser.parse_args(words[:start])
    if not words[start:]:
        parser.error("a command is missing; samebits --help lists them")
    try:
        return report_errors(lambda: dispatch(words[start:], given.root and find_root(given.root)))
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
