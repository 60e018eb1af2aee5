"""The report: the page's content, the same bytes for the same runs, and the page in a browser."""

import html.parser
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from conftest import QUIET, ROOT
from PIL import Image

from samebits.core.errors import UsageError
from samebits.studies import intervals, read_runs
from samebits.studies.report import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
FRAME = """<body><iframe src="inner.html" width="360" height="700" style="border:0"></iframe><script>
onload = () => { document.body.dataset.inner = frames[0].document.documentElement.scrollWidth; };
</script>"""
NASTY = "</script><script>document.title='broken out'</script><!-- & \u2028"


def make_run(
    runs: pathlib.Path,
    seed: int = 1,
    attempt: int = 1,
    *,
    weights: str = "",
    promise: str = "portable",
    fingerprint: str = "f1",
    epochs: int = 2,
    rows: int = 3,
    value: Any = 0.25,
) -> pathlib.Path:
    """Write the folder of a made-up finished run and return it."""
    inputs = {
        "name": "made",
        "config": {
            "name": "made",
            "seed": {"root": seed, "policy": "derived", "points": {"data": {"order": None}}},
            "model": {"dropout_rate": value},
            "training": {"epochs": epochs, "monitor": "val_accuracy"},
            "runtime": {"promise": promise},
        },
        "code": {"digest": "c0de" * 16, "files": {"samebits/train/loop.py": "ab" * 32}},
        "lock": "10c4" * 16,
    }
    folder = runs / "made" / f"{seed:04x}{epochs:04x}{promise[:4].encode().hex()}"
    path = folder / str(attempt)
    path.mkdir(parents=True)
    loss = 1 / (1 + seed)
    last = {"loss": loss, "accuracy": 0.5 + loss / 4, "val_loss": loss + 0.1, "val_accuracy": 0.9 - loss / 3}
    lines = [
        {"epoch": epoch, "step": step, "loss": loss + 1 / (epoch * step), "accuracy": 0.5}
        | ({"val_loss": loss + 0.1 / epoch, "val_accuracy": 0.9} if step == rows else {})
        for epoch in range(1, epochs + 1)
        for step in range(1, rows + 1)
    ]
    result = {
        "metrics": last, "weights_digest": weights or f"{seed:02x}" * 32, "optimizer_digest": "00" * 32, "steps": 6,
        "data_digest": "da" * 32, "promise": promise, "fingerprint": fingerprint, "resumed_at": None,
        "timing": {"training_s": 1.5},
    }  # fmt: skip
    machine = {
        "arithmetic": {
            "promise": promise, "fingerprint": fingerprint,
            "settings": {"environment": {"PYTHONPATH": str(runs), "TZ": "UTC"}, "intra_op_threads": 1},
        },
        "cpu": {"model": "Made CPU", "cores_usable": 2}, "packages": {"numpy": "2.4.6"}, "git": {"commit": "abc"},
        "python": "3.11.7", "libc": "glibc 2.36", "system": "Linux", "memory_bytes": 1, "image_digest": None,
    }  # fmt: skip
    seeds = {"points": [
        {"point": "data/order", "value": seed * 7, "source": "derived", "consumer": "batches", "rests": ""},
        {"point": "data/folds", "value": seed * 9, "source": "derived", "consumer": "folds", "rests": "no folds"},
    ]}  # fmt: skip
    (folder / "inputs.json").write_text(json.dumps(inputs))
    for name, part in (("result", result), ("machine", machine), ("seeds", seeds)):
        (path / f"{name}.json").write_text(json.dumps(part))
    (path / "config.yaml").write_text("name: made\n")
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "trace.jsonl").write_text("")
    return path


def make_regression(
    runs: pathlib.Path, seed: int, *, auc: bool = True, test: bool = True, stopped: bool = False
) -> pathlib.Path:
    """Write the folder of a made-up run that measured MAE, a digit's loss and perhaps AUC, on three splits."""
    path = make_run(runs, seed, epochs=3)
    error = 1 / (1 + seed)
    train = {"loss": error, "mae": error / 2, "digit_loss": error / 3, **({"auc": 0.9 - error} if auc else {})}
    values = train | {f"val_{name}": value + 0.1 for name, value in train.items()}
    for name in ("result.json", "../inputs.json"):
        part = json.loads((path / name).read_text())
        if name == "result.json":
            held_out = {f"test_{metric}": value + 0.2 for metric, value in train.items()} if test else {}
            part |= {"metrics": values | held_out, "stopped_early": stopped, "epochs_done": 3, "best_epoch": 2}
        else:
            part["config"]["training"] |= {"monitor": "val_mae", "epochs": 9}
        (path / name).write_text(json.dumps(part))
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    lines = [
        {"epoch": row["epoch"], "step": row["step"]}
        | {name: value + 1 / (row["epoch"] * row["step"]) for name, value in train.items()}
        | ({f"val_{name}": value + 1 / row["epoch"] for name, value in train.items()} if row["step"] == 3 else {})
        for row in rows
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def make_runs(runs: pathlib.Path) -> None:
    """Write five runs: four seeds, and one of them twice."""
    for seed in (1, 2, 3, 4):
        make_run(runs, seed)
    make_run(runs, 1, 2)


def page_of(runs: pathlib.Path, folder: pathlib.Path, *names: str) -> str:
    """Return the page of some runs."""
    report.report(runs, names, folder / "page.html")
    return (folder / "page.html").read_text()


def data_of(page: str) -> Any:
    """Return the data in a page."""
    return json.loads(page.split('id="data">')[1].split("</script>", maxsplit=1)[0])


def in_fresh_process(runs: pathlib.Path, cwd: pathlib.Path, page: pathlib.Path, **environment: str) -> bytes:
    """Return the bytes of a report from a separate process."""
    code = (
        "import sys; from pathlib import Path; from samebits.studies.report import report; "
        "report.report(Path(sys.argv[1]), [], Path(sys.argv[2]))"
    )
    variables = QUIET | {"PYTHONPATH": str(ROOT / "src")} | environment
    subprocess.run([sys.executable, "-c", code, str(runs), str(page)], cwd=cwd, env=variables, check=True, timeout=100)
    return page.read_bytes()


def test_same_runs_same_bytes(tmp_path: pathlib.Path) -> None:
    """The process's folder, hash seed, time zone and locale, and the place of the runs change no byte; a run does."""
    make_runs(tmp_path / "runs")
    shutil.copytree(tmp_path / "runs", tmp_path / "elsewhere" / "kept")
    (tmp_path / "runs" / "made" / "0001000265" / "7").mkdir(parents=True)  # an unfinished attempt is not shown
    here = in_fresh_process(tmp_path / "runs", tmp_path, tmp_path / "a.html", PYTHONHASHSEED="1", TZ="UTC", LC_ALL="C")
    there = in_fresh_process(
        pathlib.Path("kept"), tmp_path / "elsewhere", tmp_path / "b.html", PYTHONHASHSEED="2", TZ="Asia/Tokyo",
        LC_ALL="C.UTF-8",
    )  # fmt: skip
    make_run(tmp_path / "elsewhere" / "kept", 5)
    other = in_fresh_process(tmp_path / "elsewhere" / "kept", tmp_path, tmp_path / "c.html")

    assert here == there
    assert here != other
    assert str(tmp_path).encode() not in here


def test_the_page_loads_nothing(tmp_path: pathlib.Path) -> None:
    """The page has no address but SVG's name, loads nothing, and has a policy that forbids loading."""
    make_runs(tmp_path / "runs")
    page = page_of(tmp_path / "runs", tmp_path)

    assert ["http://www.w3.org/2000/svg"] == re.findall(r"https?://[^\"'\s]+", page)
    assert [] == re.findall(r"\b(?:src|href|action)\s*=|url\(|@import|fetch\(|XMLHttp|import\(", page)
    assert "default-src 'none'" in page


def test_a_value_cannot_break_out(tmp_path: pathlib.Path) -> None:
    """Markup in a configuration, a machine or a study stays text, in the data and in the table."""
    path = make_run(tmp_path / "runs", value=NASTY)
    machine = json.loads((path / "machine.json").read_text())
    machine["cpu"]["model"] = NASTY
    (path / "machine.json").write_text(json.dumps(machine))
    page = page_of(tmp_path / "runs", tmp_path)

    assert 2 == page.lower().count("</script")
    assert NASTY == data_of(page)["equal"]["config model.dropout_rate"]
    assert NASTY in data_of(page)["machines"][0]


class _Rows(html.parser.HTMLParser):
    """Collects the text of a page's table cells, as seen without JavaScript."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  the parser's argument
        """Begin a row or a cell."""
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        self._open = tag == "td"

    def handle_data(self, data: str) -> None:
        """Take a cell's text."""
        if self._open:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002  the parser's argument
        """End a cell."""
        self._open = False


def test_the_table_is_readable_without_javascript(tmp_path: pathlib.Path) -> None:
    """Every run is a row in the HTML, with its metrics and its verdict."""
    make_runs(tmp_path / "runs")
    parser = _Rows()
    parser.feed(page_of(tmp_path / "runs", tmp_path))
    rows = [row for row in parser.rows if row]

    assert 5 == len(rows)
    assert ["✓ held", "✓ held", "· alone", "· alone", "· alone"] == [row[7] for row in rows]
    assert ["0.7333", "0.6000"] == rows[0][2:4]


def test_any_metrics_are_shown(tmp_path: pathlib.Path) -> None:
    """The monitored metric is the first column; no accuracy appears; a metric that a run lacks is a dash."""
    for seed in (1, 2):
        make_regression(tmp_path / "runs", seed, auc=seed == 1)
    page = page_of(tmp_path / "runs", tmp_path)
    data, parser = data_of(page), _Rows()
    parser.feed(page.split('<section aria-labelledby="h-test"', maxsplit=1)[0])
    rows = [row for row in parser.rows if row]
    heads = re.findall(r'data-column="(\w+)"', page)

    assert ["run", "seed", "val_mae", "val_loss", "val_digit_loss", "val_auc", "epochs"] == heads[:7]
    assert [["0.3500", "0.5000"], ["0.2667", "-"]] == [[row[2], row[5]] for row in rows]
    assert ["val_mae", "val_loss", "loss"] == data["metrics"][:3]
    assert {"loss", "mae", "digit_loss", "val_mae"} <= set(data["runs"][1]["curves"])
    assert "<dt>val_mae</dt><dd>of 2 runs; lower is better</dd>" in page
    assert "accuracy" not in page.split("<script>", maxsplit=1)[0]


def test_the_test_split_is_apart(tmp_path: pathlib.Path) -> None:
    """Its metrics are in a table of their own, for the runs that have one, and in no other column."""
    make_regression(tmp_path / "runs", 1)
    make_regression(tmp_path / "runs", 2, test=False)
    before, _, after = page_of(tmp_path / "runs", tmp_path).partition('id="test"')
    table = after.split("</table>", maxsplit=1)[0]

    assert 1 == table.count('<td class="run"')
    assert "0.4500" in table
    assert "test_mae" not in before
    make_run(tmp_path / "others", 1)
    assert 'id="test"' not in page_of(tmp_path / "others", tmp_path)


def test_runs_without_the_monitored_metric_are_told(tmp_path: pathlib.Path) -> None:
    """The page counts the runs without it, and names values that are not finite numbers; the run is shown."""
    for seed in (1, 2):
        path = make_regression(tmp_path / "runs", seed)
        result = json.loads((path / "result.json").read_text())
        if seed == 1:
            del result["metrics"]["val_mae"]
        else:
            result["metrics"]["val_auc"] = float("nan")
        (path / "result.json").write_text(json.dumps(result))
    page = page_of(tmp_path / "runs", tmp_path)

    assert 2 == len(data_of(page)["runs"])
    assert "<dt>val_mae</dt><dd>of 2 runs; 1 of them have no such value; lower is better</dd>" in page
    assert "<dd>not finite: val_auc</dd>" in page
    assert 'title="not a finite number">-</td>' in page
    assert 'title="not recorded">-</td>' in page


def test_a_run_that_measured_nothing_is_shown(tmp_path: pathlib.Path) -> None:
    """Rows and a result without any metric give a page."""
    path = make_run(tmp_path / "runs")
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps(result | {"metrics": {}}))
    (path / "metrics.jsonl").write_text('{"epoch": 1, "step": 3}\n')
    data = data_of(page_of(tmp_path / "runs", tmp_path))

    assert ([], 1, []) == (data["metrics"], len(data["runs"]), data["unreadable"])


def test_an_early_stop_is_told(tmp_path: pathlib.Path) -> None:
    """The number of epochs says where it stopped and which epoch was the best."""
    make_regression(tmp_path / "runs", 1, stopped=True)
    make_regression(tmp_path / "runs", 2)
    page = page_of(tmp_path / "runs", tmp_path)

    assert ["stopped at epoch 3 of 9, best 2", ""] == [row["stopped"] for row in data_of(page)["runs"]]
    assert 'title="stopped at epoch 3 of 9, best 2">3</td>' in page


def test_every_verdict_is_told(tmp_path: pathlib.Path) -> None:
    """Equal bits are "held", different bits "broken" or, under free, "differs"; other machines are not compared."""
    runs = tmp_path / "runs"
    for promise, seed, other in (("portable", 1, ""), ("portable", 2, "ee"), ("free", 3, "ee"), ("free", 4, "")):
        make_run(runs, seed, 1, promise=promise)
        make_run(runs, seed, 2, promise=promise, weights=other * 32)
    make_run(runs, 5, 1, promise="machine")
    make_run(runs, 5, 2, promise="machine", fingerprint="f2", weights="ee" * 32)
    make_run(runs, 6)
    make_run(runs, 7)
    (make_run(runs, 7, 2) / "result.json").write_text("{}")
    page = page_of(runs, tmp_path)
    verdicts = {row["seed"]: row["verdict"] for row in data_of(page)["runs"]}

    assert {1: "held", 2: "broken", 3: "differs", 4: "same", 5: "elsewhere", 6: "alone", 7: "unknown"} == verdicts
    assert "A promise was broken: 2 of 12 runs" in page


def test_a_damaged_run_is_listed_and_the_others_are_shown(tmp_path: pathlib.Path) -> None:
    """Damaged results, missing metrics and invalid numbers are listed with the reason, and do not stop the report."""
    runs = tmp_path / "runs"
    make_run(runs, 1)
    (make_run(runs, 2) / "result.json").write_text('{"metrics": {"val_')
    (make_run(runs, 3) / "metrics.jsonl").unlink()
    (make_run(runs, 4) / "metrics.jsonl").write_text('{"epoch": 1, "step": 1, "loss": "low", "accuracy": 1.0}\n')
    (make_run(runs, 5) / "machine.json").write_bytes(b"\xff\x00")
    data = data_of(page_of(runs, tmp_path))
    reasons = [reason for _, reason in data["unreadable"]]

    assert [1] == [row["seed"] for row in data["runs"]]
    assert [True] * 4 == [
        part in reason
        for part, reason in zip(("result.json", "is missing or empty", '"low"', "machine.json"), reasons, strict=True)
    ]
    assert not any(str(tmp_path) in reason for reason in reasons)


def test_only_damaged_runs_still_give_a_page(tmp_path: pathlib.Path) -> None:
    """A page of unreadable runs only lists these."""
    (make_run(tmp_path / "runs") / "result.json").write_text("")
    page = page_of(tmp_path / "runs", tmp_path)

    assert [] == data_of(page)["runs"]
    assert "Unreadable" in page


def test_without_runs_it_says_to_train_first(tmp_path: pathlib.Path) -> None:
    """Without runs there is a one-line error and exit code 2."""
    with pytest.raises(UsageError, match="train first") as caught:
        report.report(tmp_path / "runs", [], tmp_path / "page.html")

    assert 2 == caught.value.exit_code
    assert not (tmp_path / "page.html").exists()


def test_more_runs_than_a_page_shows_are_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the limit and the fix."""
    make_runs(tmp_path / "runs")
    monkeypatch.setattr(report, "MAX_RUNS", 4)

    with pytest.raises(UsageError, match="at most 4 runs per page, received 5"):
        report.report(tmp_path / "runs", [], tmp_path / "page.html")


def test_named_runs_only(tmp_path: pathlib.Path) -> None:
    """The command accepts names that samebits train printed; a run named twice is shown once."""
    make_runs(tmp_path / "runs")
    data = data_of(page_of(tmp_path / "runs", tmp_path, "0002", "0003", "0002"))

    assert [2, 3] == [row["seed"] for row in data["runs"]]


def test_every_kind_of_input_is_compared(tmp_path: pathlib.Path) -> None:
    """Differences in configuration, seeds, code, lock, packages and CPU are listed, each with its effect."""
    runs = tmp_path / "runs"
    make_run(runs, 1)
    other = make_run(runs, 2, epochs=3)
    inputs = json.loads((other.parent / "inputs.json").read_text())
    inputs["lock"], inputs["code"]["files"]["samebits/train/loop.py"] = "20" * 32, "cd" * 32
    (other.parent / "inputs.json").write_text(json.dumps(inputs))
    machine = json.loads((other / "machine.json").read_text())
    machine["packages"]["numpy"], machine["cpu"]["model"], machine["git"]["commit"] = "2.4.7", "Other CPU", "def"
    (other / "machine.json").write_text(json.dumps(machine))
    varying = data_of(page_of(runs, tmp_path))["varying"]

    assert {
        "code samebits/train/loop.py": "may change bits", "config seed.root": "changes bits",
        "config training.epochs": "changes bits", "cpu model": "does not", "git commit": "does not",
        "lock requirements.lock": "may change bits", "package numpy": "may change bits",
        "seed data/folds": "changes bits", "seed data/order": "changes bits",
    } == {item: each["effect"] for item, each in varying.items()}  # fmt: skip


def test_repetitions_with_the_same_bits_count_once(tmp_path: pathlib.Path) -> None:
    """A seed that was trained twice is one point in the distribution."""
    make_runs(tmp_path / "runs")
    groups = data_of(page_of(tmp_path / "runs", tmp_path))["groups"]

    assert 1 == len(groups)
    assert 4 == len(groups[0]["metrics"]["val_loss"]["values"])


def test_another_configuration_is_another_group(tmp_path: pathlib.Path) -> None:
    """The label shows the settings that differ."""
    make_run(tmp_path / "runs", 1)
    make_run(tmp_path / "runs", 1, epochs=3)
    labels = [group["label"] for group in data_of(page_of(tmp_path / "runs", tmp_path))["groups"]]

    assert {"made epochs=2", "made epochs=3"} == set(labels)


def test_runs_with_a_point_set_alone_are_a_distribution_of_their_own(tmp_path: pathlib.Path) -> None:
    """The runs of a variance study do not change the interval of a study of seeds, nor its label."""
    make_runs(tmp_path / "runs")
    for seed, value in ((5, 57), (6, 58)):
        path = make_run(tmp_path / "runs", seed).parent / "inputs.json"
        inputs = json.loads(path.read_text())
        inputs["config"]["seed"]["points"]["data"]["order"] = value
        path.write_text(json.dumps(inputs))
    groups = data_of(page_of(tmp_path / "runs", tmp_path))["groups"]

    assert [("made alone=data.order", 2), ("made alone=none", 4)] == [
        (group["label"], len(group["metrics"]["val_loss"]["values"])) for group in groups
    ]


def test_the_interval_is_the_same_each_time_and_holds_the_mean() -> None:
    """The interval is seeded; fewer than three values have none, and equal values have an interval without width."""
    values = [0.81, 0.84, 0.85, 0.90]
    low, high = intervals.rounded_interval(values) or (1.0, 0.0)

    assert (low, high) == intervals.rounded_interval(values)
    assert low < sum(values) / 4 < high
    assert intervals.rounded_interval(values[:2]) is None
    assert (0.5, 0.5) == intervals.rounded_interval([0.5, 0.5, 0.5])


def test_studies_are_read_where_they_are_whole(tmp_path: pathlib.Path) -> None:
    """Variance by source comes from study.json; a damaged study is left out."""
    make_runs(tmp_path / "runs")
    part = {"source": "data/order", "metric": "val_loss", "sd": 0.02, "low": 0.01, "high": 0.04, "values": [1, 2]}
    for name, text in (("good", json.dumps({"variance": [part]})), ("none", "{}"), ("torn", '{"variance": [')):
        (tmp_path / "runs" / "studies" / name).mkdir(parents=True)
        (tmp_path / "runs" / "studies" / name / "study.json").write_text(text)

    assert [part | {"study": "good"}] == data_of(page_of(tmp_path / "runs", tmp_path))["variance"]


def test_thinning_keeps_both_ends() -> None:
    """At most the given number of points remain, including the first and the last."""
    points = [[float(i), 0.0] for i in range(1000)]
    thinned = read_runs.thin(points, 20)

    assert (20, points[0], points[-1]) == (len(thinned), thinned[0], thinned[-1])
    assert points[:20] == read_runs.thin(points[:20], 20)


@pytest.mark.full
def test_five_hundred_runs_make_a_page_below_five_megabytes(tmp_path: pathlib.Path) -> None:
    """Long curves are thinned, and the page says so."""
    for seed in range(500):
        make_run(tmp_path / "runs", seed, rows=80)
    page = page_of(tmp_path / "runs", tmp_path)

    assert len(page.encode()) < 5_000_000
    assert 500 == len(data_of(page)["runs"])
    assert "Each curve shows at most 100 points" in page


def test_it_starts_without_tensorflow() -> None:
    """Importing the report or watch loads neither TensorFlow nor SciPy."""
    slow = {"tensorflow", "keras", "scipy"}
    imports = "import sys, samebits.studies.report.report, samebits.studies.watch"
    code = f"{imports}; print(sorted({slow} & set(sys.modules)))"
    environment = QUIET | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()


def test_a_run_that_is_not_finished_is_left_out_aloud(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unfinished run is left out with a message; alone it is an error."""
    runs = tmp_path / "runs"
    make_run(runs, 1)
    (make_run(runs, 2) / "result.json").unlink()
    data = data_of(page_of(runs, tmp_path, "0001", "0002"))

    assert [1] == [row["seed"] for row in data["runs"]]
    assert "left out because it is not finished: made/0002" in capsys.readouterr().out
    with pytest.raises(UsageError, match="1 runs named, none finished"):
        report.report(runs, ["0002"], tmp_path / "page.html")


def luminance(colour: str) -> float:
    """Return the relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_lines_stand_out(theme: str) -> None:
    """The contrast with a card is at least 4.5 for text and 3 for lines, in both themes (WCAG 2.2 AA)."""
    blocks = re.findall(r":root.*?\{(.*?)\}", (report.FOLDER / "report.css").read_text(), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[theme == "dark"]))
    back = luminance(colours["card"])
    contrast = {}
    for name in ("text", "soft", "accent", "good", "bad", *(f"c{i}" for i in range(8))):
        light, dark = sorted((luminance(colours[name]), back), reverse=True)
        contrast[name] = (light + 0.05) / (dark + 0.05)

    assert {} == {name: value for name, value in contrast.items() if value < (3 if re.fullmatch(r"c\d", name) else 4.5)}


# In a browser


def chromium(
    folder: pathlib.Path, page: pathlib.Path, fragment: str, *options: str
) -> "subprocess.CompletedProcess[str]":
    """Open a page in a headless browser without network, in a new profile."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
        "--v=0", "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000",
        *options, f"{page.as_uri()}{fragment}",
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)


def look(folder: pathlib.Path, page: pathlib.Path, fragment: str = "", size: str = "1200,900") -> str:
    """Return a page's DOM after its script ran; errors in the console fail the test."""
    done = chromium(folder, page, fragment, f"--window-size={size}", "--dump-dom")
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    assert [] == console
    assert 'data-ready="yes"' in done.stdout
    assert "data-errors=" not in done.stdout
    return done.stdout


def photograph(folder: pathlib.Path, page: pathlib.Path, fragment: str = "", size: str = "1200,1600") -> Any:
    """Return a screenshot of a page: uint8[height, width, 3]."""
    picture = folder / "picture.png"
    chromium(folder, page, fragment, f"--window-size={size}", f"--screenshot={picture}")
    return np.asarray(Image.open(picture).convert("RGB"))


def check_curves(dom: str, runs: int) -> None:
    """Check that each of the four charts has one line per run."""
    charts = re.findall(r'<svg[^>]*data-chart="(\w*(?:loss|accuracy))"[^>]*>(.*?)</svg>', dom, re.DOTALL)

    assert ["accuracy", "val_accuracy", "loss", "val_loss"] == [name for name, _ in charts]
    assert [runs] * 4 == [len(re.findall(r'<polyline[^>]* points="[-\d., ]+"', body)) for _, body in charts]


@pytest.fixture
def page(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return the page of five runs."""
    make_runs(tmp_path / "runs")
    page_of(tmp_path / "runs", tmp_path)
    return tmp_path / "page.html"


@needs_chromium
def test_each_run_has_its_curves_and_each_seed_its_dot(tmp_path: pathlib.Path, page: pathlib.Path) -> None:
    """The page shows four charts of five lines, four dots, a mean, an interval, and the seeds of a run."""
    dom = look(tmp_path, page)

    check_curves(dom, 5)
    assert 4 == dom.count('class="dot f0"')
    assert (3, 1) == (dom.count('class="span"'), dom.count('class="mean"'))
    assert '<td class="long">data/order</td>' in dom


@needs_chromium
def test_each_metric_has_a_row_of_curves(tmp_path: pathlib.Path) -> None:
    """Training and validation of a metric are next to each other; runs without it are counted."""
    for seed in (1, 2):
        make_regression(tmp_path / "runs", seed, auc=seed == 1)
    page_of(tmp_path / "runs", tmp_path)
    dom = look(tmp_path, tmp_path / "page.html")
    rows = dom.split('class="charts pair-of-charts"')[1:]

    assert [["mae", "val_mae"], ["loss", "val_loss"], ["digit_loss", "val_digit_loss"], ["auc", "val_auc"]] == [
        re.findall(r'data-chart="(\w+)"', row.split('id="legend"')[0]) for row in rows
    ]
    assert "<figcaption>validation auc (1 of 2 runs have none)</figcaption>" in dom
    assert 14 == dom.count("<polyline")
    assert '<option value="val_mae">validation mae</option>' in dom


@pytest.mark.browser
@needs_chromium
class TestInABrowser:
    """The page in headless Chromium."""

    def test_a_click_on_a_head_sorts(self, tmp_path: pathlib.Path, page: pathlib.Path) -> None:
        """#sort=… sorts ascending or descending, and the column header shows it."""
        for fragment, seeds, said in (
            ("#sort=val_loss", [4, 3, 2, 1, 1], "ascending"),
            ("#sort=val_loss&dir=desc", [1, 1, 2, 3, 4], "descending"),
        ):
            dom = look(tmp_path, page, fragment)
            runs = data_of(page.read_text())["runs"]

            assert seeds == [runs[int(index)]["seed"] for index in re.findall(r'<tr data-run="(\d)"', dom)]
            assert 1 == len(re.findall(rf'<th[^>]* aria-sort="{said}"', dom))

    def test_two_runs_are_compared(self, tmp_path: pathlib.Path, page: pathlib.Path) -> None:
        """Different seeds are listed, an unused seed as without effect; a repetition has no difference."""
        keys = [row["key"] for row in data_of(page.read_text())["runs"]]
        other = look(tmp_path, page, f"#diff={keys[0]},{keys[2]}")
        same = look(tmp_path, page, f"#diff={keys[0]},{keys[1]}")

        assert "3 inputs differ; different weights." in other
        assert re.search(r"seed data/folds</td>(?:<td[^>]*>[^<]*</td>){2}<td[^>]*>does not</td>", other)
        assert "No input differs; same weights, bit for bit." in same

    def test_light_and_dark(self, tmp_path: pathlib.Path, page: pathlib.Path) -> None:
        """Both themes have many colours, and the dark theme is dark."""
        light, dark = (photograph(tmp_path, page, f"#theme={name}") for name in ("light", "dark"))

        assert light.mean() > 200
        assert dark.mean() < 70
        assert min(len(np.unique(each @ np.array([1, 256, 65536]))) for each in (light, dark)) > 100

    def test_nothing_sticks_out_on_a_phone(self, tmp_path: pathlib.Path, page: pathlib.Path) -> None:
        """In a frame of 360 pixels nothing overflows; a page with a wide block is detected."""
        frame = tmp_path / "frame.html"
        frame.write_text(FRAME)
        wide = '<p style="width:700px">wide</p>'
        widths = []
        for text in (page.read_text(), wide):
            (tmp_path / "inner.html").write_text(text)
            dom = chromium(tmp_path, frame, "", "--allow-file-access-from-files", "--dump-dom").stdout
            widths.append(re.findall(r'data-inner="(\d+)"', dom))

        assert ["360"] == widths[0]
        assert int(widths[1][0]) > 700

    def test_variance_by_source_has_a_bar_for_each(self, tmp_path: pathlib.Path) -> None:
        """Two sources give two bars; a broken promise is shown in the headline and in the table."""
        runs = tmp_path / "runs"
        make_run(runs, 1)
        make_run(runs, 1, 2, weights="ee" * 32)
        parts = [
            {"source": source, "metric": "val_loss", "sd": 0.02, "low": 0.01, "high": 0.04}
            for source in ("data/order", "data/split")
        ]
        (runs / "studies" / "s").mkdir(parents=True)
        (runs / "studies" / "s" / "study.json").write_text(json.dumps({"variance": parts}))
        page_of(runs, tmp_path)
        dom = look(tmp_path, tmp_path / "page.html")
        chart = dom.split('data-chart="variance"')[1].split("</svg>")[0]

        assert (2, 2) == (chart.count("<rect"), chart.count("<line"))
        assert 2 == dom.count('class="verdict broken"')

    def test_a_broken_script_is_seen(self, tmp_path: pathlib.Path, page: pathlib.Path) -> None:
        """Negative control: a script that fails, and one that the policy blocks, fail the check."""
        text = page.read_text()
        script = (report.FOLDER / "report.js").read_text()
        (tmp_path / "blocked.html").write_text(text.replace("drawCurves();", "drawNothing();"))
        folder = tmp_path / "broken"
        folder.mkdir()
        for kind in ("css", "html"):
            shutil.copy(report.FOLDER / f"report.{kind}", folder)
        (folder / "report.js").write_text(script.replace("const points = shown", "const points = missing"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(report, "FOLDER", folder)
            (tmp_path / "failing.html").write_text(report.render(data_of(text)))

        for name in ("blocked.html", "failing.html"):
            with pytest.raises(AssertionError):
                look(tmp_path, tmp_path / name)

    def test_nasty_values_stay_text(self, tmp_path: pathlib.Path) -> None:
        """Markup in a configuration is shown, not run."""
        make_run(tmp_path / "runs", value=NASTY)
        page_of(tmp_path / "runs", tmp_path)
        dom = look(tmp_path, tmp_path / "page.html")

        assert "<title>samebits: runs</title>" in dom
