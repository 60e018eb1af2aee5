"""docs/architecture.svg is drawn from the imports in the code."""

import grimp
import pytest
from conftest import ROOT
from draw_architecture import PACKAGE, PICTURE, draw, draw_project, read_lines

PYPROJECT = (ROOT / "pyproject.toml").read_text()


def test_the_picture_is_that_of_the_code() -> None:
    """The committed file has the bytes that the current imports give."""
    if draw_project(ROOT) != PICTURE.read_text():
        pytest.fail("docs/architecture.svg is not the picture of this code; fix: python tools/draw_architecture.py")


def test_another_import_gives_another_picture() -> None:
    """A first import from one room to another adds an arrow."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    before = draw(graph, PYPROJECT)
    graph.add_import(importer="samebits.image.engines", imported="samebits.portable.lstm")

    assert "image imports portable" not in before
    assert "<title>image imports portable: 1 import</title>" in draw(graph, PYPROJECT)


def test_another_module_gives_another_picture() -> None:
    """A box shows its number of modules."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    before = draw(graph, PYPROJECT)
    graph.add_module("samebits.image.other")

    assert before != draw(graph, PYPROJECT)


def test_every_room_has_its_box_on_its_line() -> None:
    """The lines equal those of the import contract, and each room is on one line."""
    rooms = [room for line in read_lines(PYPROJECT) for room in line]
    boxes = [f'font-weight="bold">{room}</text>' for room in rooms]

    folders = {path.stem for path in (ROOT / "src" / PACKAGE).iterdir() if path.suffix in ("", ".py")}
    assert folders - {"__init__", "__pycache__"} == set(rooms)
    assert [1] * len(rooms) == [PICTURE.read_text().count(box) for box in boxes]
