"""Writes runs as one HTML page that needs no network.

The same runs give the same bytes: the page contains no time and no path, and everything is sorted. Its three parts are
report.html, report.css and report.js. The table of runs is HTML; the script draws the rest from data in the page.
"""

import base64
import hashlib
import html
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from samebits.core.errors import UsageError
from samebits.core.files import storage_error, write_bytes
from samebits.runs.effects import effect_of
from samebits.runs.folder import find_attempt, is_finished
from samebits.studies.read_runs import (
    METRIC_NAMES,
    Run,
    Unreadable,
    finished_attempts,
    read_run,
    read_variance,
    run_key,
    thin,
)
from samebits.studies.report.configurations import configurations

FOLDER = pathlib.Path(__file__).parent
MAX_RUNS = 1000
MAX_POINTS = 50_000  # of all curves of one metric: about 1 MB of the page
MIN_PER_CURVE, MAX_PER_CURVE = 20, 400  # points per curve
NOWHERE = "base-uri 'none'; form-action 'none'"
COLUMNS = (
    ("run", "run"), ("seed", "seed"), ("val_accuracy", "val accuracy"), ("val_loss", "val loss"),
    ("accuracy", "accuracy"), ("loss", "loss"), ("epochs", "epochs"), ("training_s", "time s"), ("promise", "promise"),
    ("verdict", "did it hold?"), ("weights", "weights"), ("configuration", "conf."), ("machine", "machine"),
)  # fmt: skip
FACTS = ("promise", "weights", "fingerprint", "data", "epochs", "steps", "resumed", "training_s")
NUMBERS, NUMBER = ("seed", *METRIC_NAMES, "epochs", "training_s"), ' class="number"'
SIGNS = {"held": "✓", "broken": "✗", "alone": "·", "elsewhere": "·", "same": "=", "differs": "≠", "unknown": "?"}


def split_inputs(runs: Sequence[Run]) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Return the items that are equal in all runs, and the others as a list of values with each run's index into it."""
    keys = sorted({key for run in runs for key in run.inputs})
    portable = all(run.facts["promise"] == "portable" for run in runs)
    equal, varying = {}, {}
    for key in keys:
        column = [run.inputs.get(key, "absent") for run in runs]
        values = sorted(set(column))
        if len(values) == 1:
            equal[key] = values[0]
        else:
            places = {value: place for place, value in enumerate(values)}
            effect = effect_of(key, values, portable=portable)
            varying[key] = {"values": values, "of": [places[value] for value in column], "effect": effect}
    return equal, varying


def page_data(runs: Sequence[Run], unreadable: Sequence[Unreadable], variance: list[dict[str, Any]]) -> dict[str, Any]:
    """Return all data for the page's script."""
    most = max(MIN_PER_CURVE, min(MAX_PER_CURVE, MAX_POINTS // max(1, len(runs))))
    equal, varying = split_inputs(runs)
    machines = sorted({run.facts["machine"] for run in runs})
    consumers = sorted({json.dumps(run.facts["consumers"]) for run in runs})
    places = {text: place for place, text in enumerate(consumers)}
    groups = configurations(runs)
    group_of = {index: place for place, group in enumerate(groups) for index in group["runs"]}
    rows = [
        {
            "key": run.key, "seed": run.seed, "verdict": run.verdict, "verdict_text": run.verdict_text,
            "group": group_of[index], "machine": machines.index(run.facts["machine"]), **run.metrics,
            **{key: run.facts[key] for key in FACTS},
            "consumers": places[json.dumps(run.facts["consumers"])],
            "curves": {name: thin(points, most) for name, points in run.curves.items()},
        }
        for index, run in enumerate(runs)
    ]  # fmt: skip
    thinned = any(len(points) > most for run in runs for points in run.curves.values())
    return {
        "runs": rows, "groups": groups, "machines": machines, "equal": equal, "varying": varying,
        "consumers": [json.loads(text) for text in consumers], "variance": variance,
        "unreadable": [[each.key, each.reason] for each in unreadable], "thinned": most if thinned else 0,
    }  # fmt: skip


def embed(data: Any) -> str:
    """Return data as ASCII JSON that is safe inside HTML: <, > and & are escaped."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _cell(text: Any, sort: Any = None, kind: str = "", title: str = "") -> str:
    extra = f' class="{kind}"' if kind else ""
    extra += f' data-sort="{html.escape(str(sort))}"' if sort is not None else ""
    extra += f' title="{html.escape(title)}"' if title else ""
    return f"<td{extra}>{html.escape(str(text))}</td>"


def short_key(key: str) -> str:
    """Return a run's key with only the first eight digits of the digest."""
    name, digest, attempt = (*key.split("/"), "", "")[:3]
    return f"{name}/{digest[:8]}/{attempt}"


def _row(index: int, row: dict[str, Any]) -> str:
    seconds = row["training_s"]
    cells = [
        _cell(short_key(row["key"]), row["key"], "run", row["key"]), _cell(row["seed"], row["seed"], "number"),
        *(_cell(f"{row[name]:.4f}", repr(row[name]), "number") for name in METRIC_NAMES),
        _cell(row["epochs"], row["epochs"], "number"),
        _cell(f"{seconds:.1f}" if isinstance(seconds, int | float) else "", seconds, "number"), _cell(row["promise"]),
        _cell(f"{SIGNS[row['verdict']]} {row['verdict']}", None, f"verdict {row['verdict']}", row["verdict_text"]),
        _cell(row["weights"][:12], row["weights"], "digest", row["weights"]),
        _cell(f"C{row['group'] + 1}", row["group"]),
        _cell(f"M{row['machine'] + 1}", row["machine"]),
    ]  # fmt: skip
    return f'<tr data-run="{index}">{"".join(cells)}</tr>'


def _list(title: str, rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in rows)
    return f"<h3>{title}</h3><dl>{body}</dl>" if rows else ""


def _headline(data: dict[str, Any]) -> str:
    counts = {name: sum(row["verdict"] == name for row in data["runs"]) for name in SIGNS}
    if counts["broken"]:
        of = f"{counts['broken']} of {len(data['runs'])} runs"
        return f"A promise was broken: {of} have different bits from another run with the same inputs."
    if counts["held"]:
        return f"The promise held: {counts['held']} runs have the same bits as another run with the same inputs."
    return "There are no two runs with the same inputs to compare: train one again to see whether the promise holds."


def render(data: dict[str, Any]) -> str:
    """Return the page as HTML."""
    style, script = ((FOLDER / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    inputs = {row["key"].rsplit("/", 1)[0] for row in data["runs"]}
    tiles = {
        "runs": len(data["runs"]), "different inputs": len(inputs), "configurations": len(data["groups"]),
        "held": sum(row["verdict"] == "held" for row in data["runs"]),
        "broken": sum(row["verdict"] == "broken" for row in data["runs"]), "machines": len(data["machines"]),
    }  # fmt: skip
    heads = "".join(
        f'<th scope="col" aria-sort="none"{NUMBER if name in NUMBERS else ""}>'
        f'<button type="button" data-column="{name}">{title}</button></th>'
        for name, title in COLUMNS
    )
    notes = _list("Configurations", [(f"C{i + 1}", each["label"]) for i, each in enumerate(data["groups"])])
    notes += _list("Machines", [(f"M{i + 1}", text) for i, text in enumerate(data["machines"])])
    notes += _list(
        "Broken promises", [(short_key(r["key"]), r["verdict_text"]) for r in data["runs"] if r["verdict"] == "broken"]
    )
    parts = {
        "CSP": f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; " + NOWHERE,
        "STYLE": style, "SCRIPT": script, "DATA": embed(data), "HEADLINE": html.escape(_headline(data)), "HEADS": heads,
        "STATE": "bad" if tiles["broken"] else "good" if tiles["held"] else "plain",
        "TILES": "".join(f"<li><strong>{count}</strong> {name}</li>" for name, count in tiles.items()),
        "ROWS": "\n".join(_row(index, row) for index, row in enumerate(data["runs"])), "NOTES": notes,
        "UNREADABLE": _list("Unreadable runs (not shown elsewhere)", [tuple(pair) for pair in data["unreadable"]]),
        "THINNED": f"Each curve shows at most {data['thinned']} points." if data["thinned"] else "",
    }  # fmt: skip
    template = (FOLDER / "report.html").read_text(encoding="utf-8")
    return re.sub(r"@([A-Z]+)@", lambda found: parts[found[1]], template)


def select(runs: pathlib.Path, names: Sequence[str]) -> list[pathlib.Path]:
    """Return the finished attempts that a user names, or all; sorted, each once.

    Raises:
        UsageError: No attempt is finished, or there are more than a page can show.
    """
    chosen = [find_attempt(runs, name) for name in names] if names else finished_attempts(runs)
    attempts = sorted({run_key(path): path for path in chosen if is_finished(path)}.items())
    for path in chosen:
        if not is_finished(path):
            print(f"left out because it is not finished: {run_key(path)}")
    if not attempts:
        raise UsageError(
            "report",
            expected="at least one finished run",
            received=f"{len(chosen)} runs named, none finished" if names else "none",
            fix="train first, e.g. samebits train seed.root=56",
        )
    if len(attempts) > MAX_RUNS:
        raise UsageError(
            "report",
            expected=f"at most {MAX_RUNS} runs per page",
            received=f"{len(attempts)}",
            fix="name the runs to show: samebits report RUN …",
        )
    return [path for _, path in attempts]


def report(runs: pathlib.Path, names: Sequence[str], page: pathlib.Path) -> int:
    """Write the report of some runs, or of all finished runs, and print its path.

    Args:
        runs: The folder of runs.
        names: Names that `find_attempt` accepts; empty: every finished run.
        page: The HTML file to write.

    Raises:
        UsageError: There is nothing to show, or too much.
        RecordError: The page cannot be written.
    """
    read = [read_run(attempt) for attempt in select(runs, names)]
    good = [each for each in read if isinstance(each, Run)]
    bad = [each for each in read if isinstance(each, Unreadable)]
    text = render(page_data(good, bad, read_variance(runs)))
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(page, error) from error
    write_bytes(page, text.encode("utf-8", "replace"))
    for each in bad:
        print(f"unreadable {each.key}: {each.reason}")
    print(f"report of {len(good)} runs ({len(text) / 1e6:.2f} MB): {page}")
    return 0
