"""Checks every training in tests/gallery/, and writes docs/gallery.md with what was seen: one row for each.

    python tools/gallery_page.py [--emulate] [NAME ...]    all trainings, or these; also on emulated CPUs

It runs the tests of the gallery, which record what they see in tests/gallery/results.json. A training whose test does
not come to its end has no results. Later tests check that every training gives what is recorded.
"""

import argparse
import ast
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent
GALLERY, PAGE = ROOT / "tests" / "gallery", ROOT / "docs" / "gallery.md"
SCRIPTS = ROOT / "tests" / "launch" / "test_gallery_as_scripts.py"
RESULTS = GALLERY / "results.json"
RECORD = "GALLERY_RECORD"  # a variable: the tests record what they see
NAMES = sorted(path.stem for path in GALLERY.glob("[a-z]*.py") if not path.stem.startswith("test_"))
EMULATED = (  # without ctc, whose operations end the emulator with a signal
    "text_transformer", "vae", "char_lm", "multi_label", "segmentation", "tabular_lookups", "image_augmentation",
    "time_series",
)  # fmt: skip
COLUMNS = ("result", "verified", "resumed", "portable", "emulated", "script")
TABLE = "|---|---|---|---|---|---|---|---|---|\n"  # the page above it is written by hand

# What was seen of a training: `COLUMNS`; and for later tests "weights" and "bits" (digests), and where it is "killed";
# of its script "script_bits" and "script_killed".
Seen = Mapping[str, str]


@dataclass(frozen=True)
class Training:
    """One file of the gallery.

    Attributes:
        name: Its name.
        kind: What is trained, in words.
        shows: What it shows of Keras and samebits.
        words: The overrides of `samebits train`.
    """

    name: str
    kind: str
    shows: str
    words: tuple[str, ...]

    def row(self, seen: Seen) -> str:
        """Return its row of the table."""
        link = f"[{self.name}.py](../tests/gallery/{self.name}.py)"
        found = [seen.get(column, "").partition("\n")[0] for column in COLUMNS]
        return f"| {' | '.join([self.kind, link, self.shows, *found])} |"


def read_training(name: str) -> Training:
    """Return one file of the gallery. It is not imported."""
    tree = ast.parse((GALLERY / f"{name}.py").read_text(encoding="utf-8"))
    kind, _, shows = (ast.get_docstring(tree) or "").partition("\n\nShows: ")
    assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    words = (f"name={name}", *ast.literal_eval(assigned["OVERRIDES"]))
    return Training(name, kind.removesuffix("."), " ".join(shows.split()).removesuffix("."), words)


def read_results() -> dict[str, dict[str, str]]:
    """Return what was seen of each training, by name."""
    results: dict[str, dict[str, str]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return results


def write_results(results: Mapping[str, Seen]) -> None:
    """Write what was seen of each training."""
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def record(name: str, seen: Seen) -> None:
    """Add what was seen of a training. Other weights replace all that was seen before."""
    results = read_results()
    before = results.get(name, {})
    if "verified" in seen and seen.get("weights") != before.get("weights"):
        before = {}
    write_results(results | {name: {**before, **seen}})


def make_page(page: str, results: Mapping[str, Seen]) -> str:
    """Return the page with new rows."""
    rows = "".join(f"{read_training(name).row(results.get(name, {}))}\n" for name in NAMES)
    return page.partition(TABLE)[0] + TABLE + rows


def install(root: pathlib.Path) -> None:
    """Put the gallery and its configuration into a project."""
    shutil.copytree(GALLERY / "conf", root / "conf", dirs_exist_ok=True)
    (root / "src" / "gallery").mkdir()
    for name in ("__init__", *NAMES):
        shutil.copy(GALLERY / f"{name}.py", root / "src" / "gallery")


def main() -> int:
    """Check trainings, record what was seen, and write the page. Returns the exit code of the tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *NAMES])
    parser.add_argument("--emulate", action="store_true", help="also train on emulated CPUs")
    arguments = parser.parse_args()
    names = arguments.names or NAMES
    results = read_results()
    for name in names:  # emulated CPUs gave these weights
        results[name] = {key: value for key, value in results.get(name, {}).items() if key in ("weights", "emulated")}
    write_results({name: results[name] for name in NAMES if name in results})
    tests = [f"{GALLERY}/test_gallery.py::test_a_training_has_the_same_bits_again_and_after_a_kill[{n}]" for n in names]
    tests += [f"{SCRIPTS}::test_a_training_of_the_gallery_is_a_script_as_well[{name}]" for name in names]
    if arguments.emulate:
        tests.append(f"{GALLERY}/test_gallery.py::test_other_cpus_give_the_same_bits")
    code = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-m", "", *tests], cwd=ROOT, env=os.environ | {RECORD: "1"}, check=False
    ).returncode
    PAGE.write_text(make_page(PAGE.read_text(encoding="utf-8"), read_results()), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
