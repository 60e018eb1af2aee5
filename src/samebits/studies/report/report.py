"""Writes runs as one HTML page that needs no network.

The same runs give the same bytes: the page contains no time and no path, and everything is sorted. Its three parts are
report.html, report.css and report.js. The table of runs is HTML; the script draws the rest from data in the page.
"""

import base64
import collections
import hashlib
import html
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from samebits.core.errors import UsageError
from samebits.core.files import storage_error, write_bytes
from samebits.core.metrics import held_out_names, order_names, table_names
from samebits.core.terminal import describe_value
from samebits.runs.effects import effect_of
from samebits.runs.folder import find_attempt, is_finished
from samebits.studies.read_runs import (
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
MAX_POINTS = 200_000  # of all curves: about 4 MB of the page
MIN_PER_CURVE, MAX_PER_CURVE = 20, 400  # points per curve
NOWHERE = "base-uri 'none'; form-action 'none'"
COLUMNS = (
    ("epochs", "epochs"), ("training_s", "time s"), ("promise", "promise"), ("verdict", "did it hold?"),
    ("weights", "weights"), ("configuration", "conf."), ("machine", "machine"),
)  # fmt: skip
FACTS = ("promise", "weights", "fingerprint", "data", "epochs", "stopped", "steps", "resumed", "training_s")
TEXTS, NUMBER = ("run", "promise", "verdict", "weights", "configuration", "machine"), ' class="number"'
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
    curves = sum(len(run.curves) for run in runs)
    most = max(MIN_PER_CURVE, min(MAX_PER_CURVE, MAX_POINTS // max(1, curves)))
    monitors = [name for name, _ in collections.Counter(run.monitor.name for run in runs).most_common()]
    names = [name for run in runs for name in (*run.metrics, *run.curves)]
    ordered = order_names([*(each for each in monitors if each in names), *names], next(iter(monitors), ""))
    equal, varying = split_inputs(runs)
    machines = sorted({run.facts["machine"] for run in runs})
    consumers = sorted({json.dumps(run.facts["consumers"]) for run in runs})
    places = {text: place for place, text in enumerate(consumers)}
    groups = configurations(runs)
    group_of = {index: place for place, group in enumerate(groups) for index in group["runs"]}
    rows = [
        {
            "key": run.key, "seed": run.seed, "verdict": run.verdict, "verdict_text": run.verdict_text,
            "group": group_of[index], "machine": machines.index(run.facts["machine"]),
            "metrics": run.metrics, "not_finite": run.not_finite,
            "monitor": run.monitor.name, "higher_is_better": run.monitor.higher_is_better(run.monitor.name),
            **{key: run.facts[key] for key in FACTS},
            "consumers": places[json.dumps(run.facts["consumers"])],
            "curves": {name: thin(points, most) for name, points in run.curves.items()},
        }
        for index, run in enumerate(runs)
    ]  # fmt: skip
    thinned = any(len(points) > most for run in runs for points in run.curves.values())
    return {
        "runs": rows, "metrics": ordered, "groups": groups, "machines": machines, "equal": equal, "varying": varying,
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


def _metric_cells(row: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Return the cells of a run's metrics. A run without one has a dash, which sorts first."""
    cells = []
    for name in names:
        value = row["metrics"].get(name)
        title = "" if value is not None else "not a finite number" if name in row["not_finite"] else "not recorded"
        cells.append(_cell(describe_value(value), "" if value is None else repr(value), "number", title))
    return cells


def _run_cells(row: dict[str, Any]) -> list[str]:
    return [_cell(short_key(row["key"]), row["key"], "run", row["key"]), _cell(row["seed"], row["seed"], "number")]


def _row(index: int, row: dict[str, Any], names: Sequence[str]) -> str:
    seconds = row["training_s"]
    cells = [
        *_run_cells(row), *_metric_cells(row, names),
        _cell(row["epochs"], row["epochs"], "number", row["stopped"]),
        _cell(f"{seconds:.1f}" if isinstance(seconds, int | float) else "", seconds, "number"), _cell(row["promise"]),
        _cell(f"{SIGNS[row['verdict']]} {row['verdict']}", None, f"verdict {row['verdict']}", row["verdict_text"]),
        _cell(row["weights"][:12], row["weights"], "digest", row["weights"]),
        _cell(f"C{row['group'] + 1}", row["group"]),
        _cell(f"M{row['machine'] + 1}", row["machine"]),
    ]  # fmt: skip
    return f'<tr data-run="{index}">{"".join(cells)}</tr>'


def _test_split(data: dict[str, Any]) -> str:
    """Return the table of the metrics of the test split; empty if no run has any."""
    names = held_out_names(data["metrics"])
    if not names:
        return ""
    heads = "".join(f'<th scope="col"{NUMBER}>{html.escape(name)}</th>' for name in names)
    rows = "".join(
        f"<tr>{''.join([*_run_cells(row), *_metric_cells(row, names)])}</tr>"
        for row in data["runs"]
        if any(name in row["metrics"] for name in names)
    )
    return (
        '<section aria-labelledby="h-test"><h2 id="h-test">Test split</h2>'
        '<p class="note">Evaluated once, after the training. No run was chosen by these values.</p>'
        f'<div class="scroll"><table id="test"><thead><tr><th scope="col">run</th><th scope="col"{NUMBER}>seed</th>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _monitor_notes(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Return which metric ranks the runs, and which runs lack it or have values that cannot be drawn."""
    rows, notes = data["runs"], []
    for (name, higher), count in collections.Counter((row["monitor"], row["higher_is_better"]) for row in rows).items():
        without = sum(row["monitor"] == name and name not in row["metrics"] for row in rows)
        text = f"of {count} runs" + (f"; {without} of them have no such value" if without else "")
        better = {True: "higher is better", False: "lower is better", None: "which is better is unknown"}[higher]
        notes.append((name, f"{text}; {better}"))
    odd = [(short_key(row["key"]), f"not finite: {', '.join(row['not_finite'])}") for row in rows if row["not_finite"]]
    return notes + odd


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
    names = table_names(data["metrics"], next(iter(data["metrics"]), ""))
    columns = (("run", "run"), ("seed", "seed"), *((name, name) for name in names), *COLUMNS)
    heads = "".join(
        f'<th scope="col" aria-sort="none"{"" if name in TEXTS else NUMBER}>'
        f'<button type="button" data-column="{html.escape(name)}">{html.escape(title)}</button></th>'
        for name, title in columns
    )
    notes = _list("Monitored metric", _monitor_notes(data))
    notes += _list("Configurations", [(f"C{i + 1}", each["label"]) for i, each in enumerate(data["groups"])])
    notes += _list("Machines", [(f"M{i + 1}", text) for i, text in enumerate(data["machines"])])
    notes += _list(
        "Broken promises", [(short_key(r["key"]), r["verdict_text"]) for r in data["runs"] if r["verdict"] == "broken"]
    )
    parts = {
        "CSP": f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; " + NOWHERE,
        "STYLE": style, "SCRIPT": script, "DATA": embed(data), "HEADLINE": html.escape(_headline(data)), "HEADS": heads,
        "STATE": "bad" if tiles["broken"] else "good" if tiles["held"] else "plain",
        "TILES": "".join(f"<li><strong>{count}</strong> {name}</li>" for name, count in tiles.items()),
        "ROWS": "\n".join(_row(index, row, names) for index, row in enumerate(data["runs"])), "NOTES": notes,
        "TEST": _test_split(data),
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
