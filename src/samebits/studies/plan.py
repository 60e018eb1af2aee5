"""The runs of a study: names them, finds the finished ones, and reads their results. Starts nothing.

    runs/studies/<name>-<digest>/jobs/<number>.yaml     configuration of a run that the study started
    runs/studies/<name>-<digest>/jobs/<number>.txt      its output; <number>.exit: its exit code

The runs are stored where `samebits train` stores them. So a study reuses runs that are already finished.
"""

import math
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from samebits.core.config import Config, from_dict, to_dict
from samebits.core.config_rules import check
from samebits.core.digest import json_digest
from samebits.core.errors import ConfigError, RecordError
from samebits.core.files import write_yaml
from samebits.core.metrics import Monitor, order_names, table_names
from samebits.core.terminal import describe_values
from samebits.runs.folder import RESULT, is_finished, list_attempts, read_json
from samebits.runs.identity import DIGITS, describe_inputs, source_files
from samebits.runtime.pins import check_machine

FOLDER = "studies"
MAX_IN_A_LINE = 3  # metrics


def with_settings(tree: dict[str, Any], settings: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return nested data with the values of some dotted keys replaced; all other parts are shared, not copied."""
    changed = dict(tree)
    for key, value in settings:
        *parents, last = key.split(".")
        part = changed
        for parent in parents:
            part[parent] = dict(part.get(parent) or {})
            part = part[parent]
        part[last] = value
    return changed


@dataclass(frozen=True)
class Run:
    """One run of a study: its variant, its number, and how its configuration differs from the variant's.

    Attributes:
        variant: Name of the configuration that it belongs to.
        seed: The number of the seed, fold or bag.
        base: The variant's configuration.
        settings: Dotted keys and their values in this run; empty: the root seed is `seed`.
        varied: What the runs vary: seed, fold or bag.
    """

    variant: str
    seed: int
    base: Config
    settings: tuple[tuple[str, Any], ...] = ()
    varied: str = "seed"

    def changes(self) -> tuple[tuple[str, Any], ...]:
        """Return the differences from the variant's configuration, as dotted keys and values."""
        return self.settings or (("seed.root", self.seed),)

    def config(self) -> Config:
        """Return the run's own configuration."""
        return from_dict(with_settings(to_dict(self.base), self.changes()))


@dataclass(frozen=True)
class Record:
    """A run's entry in study.json. If `attempt` is None, the run did not finish and `failure` gives the reason.

    Attributes:
        metrics: The finite metrics of the result, the monitored one first.
    """

    variant: str
    seed: int
    inputs: str
    attempt: str | None
    metrics: dict[str, float] = field(default_factory=dict)
    weights_digest: str | None = None
    failure: str = ""
    varied: str = "seed"


def name_runs(runs: Sequence[Run], root: pathlib.Path) -> list[str]:
    """Return the inputs digest of every run, equal to that of `samebits.runs.identity.name_inputs`.

    Code, lock and configuration are read once per variant, because its runs differ only in their settings.

    Raises:
        ConfigError: A value of a configuration is out of range.
        SeedError: A seed is out of range.
    """
    variants: dict[str, list[Run]] = {}
    for run in runs:
        variants.setdefault(run.variant, []).append(run)
    inputs: dict[str, dict[str, Any]] = {}
    for variant, members in variants.items():
        for run in (min(members, key=lambda run: run.seed), max(members, key=lambda run: run.seed)):
            check(run.config())  # if the smallest and the largest number are in range, all are
        base = members[0].base
        check_machine(base.runtime)
        inputs[variant] = describe_inputs(base, root, source_files(base, root))
    names = []
    for run in runs:
        shared = inputs[run.variant]
        own = shared | {"config": with_settings(shared["config"], run.changes())}
        names.append(json_digest(own)[:DIGITS])
    return names


def read_lines(path: pathlib.Path) -> list[str]:
    """Return the lines of a text file; none for a missing file."""
    return path.read_text(errors="replace").strip().splitlines() if path.exists() else []


class Study:
    """The runs of a study, with their names and the study's folder.

    Args:
        name: The study's name. With the digest, it is also the tracker's group.
        runs: The runs. Two with equal inputs are trained once.
        root: The project's folder.

    Attributes:
        monitor: The metric that ranks the runs: that of the first run's configuration.

    Raises:
        ConfigError: There is no run, or a configuration is wrong.
    """

    def __init__(self, name: str, runs: Sequence[Run], root: pathlib.Path) -> None:
        if not runs:
            raise ConfigError("study", expected="at least one run", received="none", fix="samebits study --seeds 1..20")
        self.runs, self.root, self.inputs = list(runs), root, name_runs(runs, root)
        rows = [[run.variant, run.seed, inputs] for run, inputs in zip(self.runs, self.inputs, strict=True)]
        training = runs[0].base.training
        self.monitor = Monitor(training.monitor, training.monitor_mode)
        self.name = f"{name}-{json_digest(rows)[:DIGITS]}"
        self.folder = root / runs[0].base.paths.runs / FOLDER / self.name
        self._finished: dict[str, str] = {}  # inputs -> attempt: a finished run stays finished

    def inputs_folder(self, number: int) -> pathlib.Path:
        """Return the folder of a run's attempts."""
        base = self.runs[number].base
        return self.root / base.paths.runs / base.name / self.inputs[number]

    def finished(self, number: int) -> pathlib.Path | None:
        """Return the first finished attempt of a run. None: there is none."""
        folder, inputs = self.inputs_folder(number), self.inputs[number]
        if inputs not in self._finished:
            attempt = next((each for each in list_attempts(folder) if is_finished(each)), None)
            if attempt is None:
                return None
            self._finished[inputs] = attempt.name
        return folder / self._finished[inputs]

    def missing(self) -> list[int]:
        """Return the numbers of the unfinished runs; equal inputs count once."""
        first: dict[str, int] = {}
        for number, inputs in enumerate(self.inputs):
            first.setdefault(inputs, number)
        return [number for number in first.values() if self.finished(number) is None]

    def record(self, number: int) -> Record:
        """Return a run's record, read from its files."""
        run, inputs = self.runs[number], self.inputs[number]
        attempt = self.finished(number)
        if attempt is None:
            return Record(run.variant, run.seed, inputs, None, failure=self.describe_failure(number), varied=run.varied)
        try:
            result = read_json(attempt / RESULT)
        except RecordError as error:
            return Record(run.variant, run.seed, inputs, None, failure=" ".join(str(error).split()), varied=run.varied)
        values, digest = result["metrics"], result["weights_digest"]
        names = order_names((name for name in values if math.isfinite(values[name])), self.monitor.name)
        metrics = {name: values[name] for name in names}
        return Record(run.variant, run.seed, inputs, attempt.name, metrics, digest, varied=run.varied)

    def describe_failure(self, number: int) -> str:
        """Return the reason why a run did not finish, in one line."""
        job = self.folder / "jobs" / f"{number}.txt"
        lines, launcher = read_lines(job), read_lines(self.folder / "launcher.txt")
        if not lines:
            return "it was not started" + (f"; the launcher: {launcher[-1]}" if launcher else "")
        last = next((line for line in lines if "Error" in line), lines[-1])
        return last if job.with_suffix(".exit").exists() else f"its job was killed, cancelled or lost, after: {last}"

    def records(self) -> Iterator[Record]:
        """Yield the record of every run, reading one result file at a time."""
        return (self.record(number) for number in range(len(self.runs)))

    def prepare(self, number: int) -> None:
        """Write the configuration of a run before it starts."""
        run = self.runs[number]
        config = run.config()
        config.tracker.group = config.tracker.group or self.name
        config.tracker.tags = [*config.tracker.tags, run.variant]
        for ending in ("exit", "txt"):
            (self.folder / "jobs" / f"{number}.{ending}").unlink(missing_ok=True)
        write_yaml(self.folder / "jobs" / f"{number}.yaml", to_dict(config))


def describe_record(record: Record) -> str:
    """Return one line that describes a finished or failed run."""
    title = f"{record.variant}  {record.varied} {record.seed}"
    if record.attempt is None or record.weights_digest is None:
        return f"{title}  FAILED: {record.failure}"
    names = table_names(record.metrics, next(iter(record.metrics), ""))[:MAX_IN_A_LINE]
    numbers = describe_values({name: record.metrics[name] for name in names})
    return f"{title}  {numbers or 'no metrics'}  weights {record.weights_digest[:12]}"
