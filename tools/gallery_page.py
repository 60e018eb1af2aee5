"""Writes docs/gallery.md: one row for each training in tests/gallery/.

    python tools/gallery_page.py    trains every file once in a fresh process, and writes the page

Tests check that the page says what the files say, and that each training ends with the metric of the page.
"""

import ast
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

from samebits.compose import compose
from samebits.core.metrics import MONITOR
from samebits.runs.folder import RESULT, read_json
from samebits.runs.identity import import_path

ROOT = pathlib.Path(__file__).resolve().parent.parent
GALLERY, PAGE = ROOT / "tests" / "gallery", ROOT / "docs" / "gallery.md"
PROJECT_FILES = ("conf", "scripts", "src", "requirements.lock", "requirements-dev.lock", "pyproject.toml")
NAMES = sorted(path.stem for path in GALLERY.glob("[a-z]*.py") if not path.stem.startswith("test_"))
EMULATED = ("diffusion", "image_augmentation", "imbalanced", "mixup", "recommender", "siamese", "time_series", "vae")
TABLE = "|---|---|---|---|---|---|---|---|\n"  # the page above it is written by hand


@dataclass(frozen=True)
class Training:
    """One file of the gallery.

    Attributes:
        name: Its name.
        kind: What is trained, in words.
        shows: What it shows of Keras and samebits.
        words: The overrides of `samebits train`.
        refused: What `runtime=portable` says about it; "": it is portable.
    """

    name: str
    kind: str
    shows: str
    words: tuple[str, ...]
    refused: str

    @property
    def monitor(self) -> str:
        """The metric of its result."""
        named = [word.partition("=")[2] for word in self.words if word.startswith("training.monitor=")]
        return named[0] if named else MONITOR

    def row(self, value: float | None) -> str:
        """Return its row of the table. A result is shown if it is the same on every machine."""
        result = f"{self.monitor} {value:.4f}" if value is not None and not self.refused else self.monitor
        portable = f"refused: {self.refused}" if self.refused else "yes"
        emulated = "yes" if self.name in EMULATED else ""
        link = f"[{self.name}.py](../tests/gallery/{self.name}.py)"
        return f"| {self.kind} | {link} | {self.shows} | {result} | yes | yes | {portable} | {emulated} |"


def read_training(name: str) -> Training:
    """Return one file of the gallery. It is not imported."""
    tree = ast.parse((GALLERY / f"{name}.py").read_text(encoding="utf-8"))
    kind, _, shows = (ast.get_docstring(tree) or "").partition("\n\nShows: ")
    assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    refused = ast.literal_eval(assigned["REFUSED"]) if "REFUSED" in assigned else ""
    words = (f"name={name}", *ast.literal_eval(assigned["OVERRIDES"]))
    return Training(name, kind.removesuffix("."), " ".join(shows.split()).removesuffix("."), words, refused)


def make_page(page: str, values: Mapping[str, float]) -> str:
    """Return the page with new rows, given the results by name."""
    rows = "".join(f"{read_training(name).row(values.get(name))}\n" for name in NAMES)
    return page.partition(TABLE)[0] + TABLE + rows


def install(root: pathlib.Path) -> None:
    """Put the gallery and its configuration into a project."""
    shutil.copytree(GALLERY / "conf", root / "conf", dirs_exist_ok=True)
    (root / "src" / "gallery").mkdir()
    for name in ("__init__", *NAMES):
        shutil.copy(GALLERY / f"{name}.py", root / "src" / "gallery")


def train(root: pathlib.Path, name: str) -> float:
    """Train one file in a fresh process, and return its result."""
    words = ["experiment=gallery", "tracker=none", *read_training(name).words]
    command = [sys.executable, "-m", "samebits", f"--root={root}", "train", *words]
    subprocess.run(command, check=True, env={"PYTHONPATH": import_path(root), "PATH": "/usr/bin:/bin"})
    (result,) = (root / "runs" / name).glob(f"*/1/{RESULT}")
    return float(read_json(result)["metrics"][compose(root, words).training.monitor])


def main() -> None:
    """Train every file and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name in PROJECT_FILES:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, root / name)
        install(root)
        values = {name: train(root, name) for name in NAMES}
    PAGE.write_text(make_page(PAGE.read_text(encoding="utf-8"), values), encoding="utf-8")


if __name__ == "__main__":
    main()
