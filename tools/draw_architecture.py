"""Draw docs/architecture.svg from the imports in the code: python tools/draw_architecture.py.

Each box is a room with its number of modules. Each arrow is an import. The import contract in pyproject.toml gives the
lines. The same code gives the same bytes.
"""

import argparse
import itertools
import pathlib
import sys
import tomllib
from collections import defaultdict
from dataclasses import dataclass

import grimp

ROOT = pathlib.Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "architecture.svg"
PACKAGE = "samebits"
WIDTH, LINE_HEIGHT, BOX_WIDTH, BOX_HEIGHT, MARGIN = 920, 112, 150, 46, 30
LANE = 9  # between two arrows side by side
COLOURS = ("#8a6d3b", "#3b6ea5", "#a5523b", "#4f7f4f", "#7a5fa0", "#3f8f8f", "#b0823c", "#5c6f8a", "#94506f", "#66783a")
HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" font-family="sans-serif" text-anchor="middle" '
    'role="img" aria-label="The rooms of samebits and what they import">'
)
TIP = '<marker id="{0}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'


@dataclass(frozen=True)
class Room:
    """A box: its position and its number of modules."""

    name: str
    line: int
    left: int
    width: int
    modules: int

    @property
    def top(self) -> int:
        """The upper edge."""
        return MARGIN + self.line * LINE_HEIGHT

    @property
    def middle(self) -> int:
        """The centre from left to right."""
        return self.left + self.width // 2


def read_lines(pyproject: str) -> list[list[str]]:
    """Return the rooms on each line, top first, from the contract of import-linter."""
    contracts = tomllib.loads(pyproject)["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in layers]


def count_imports(graph: grimp.ImportGraph, rooms: list[str]) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Return the number of modules of each room, and the number of imports from one room to another."""
    modules = {room: {f"{PACKAGE}.{room}", *graph.find_descendants(f"{PACKAGE}.{room}")} for room in rooms}
    room_of = {module: room for room, members in modules.items() for module in members}
    imports: dict[tuple[str, str], int] = defaultdict(int)
    for module, room in sorted(room_of.items()):
        for imported in graph.find_modules_directly_imported_by(module):
            other = room_of.get(imported, room)
            if other != room:
                imports[room, other] += 1
    counts = {room: sum(not graph.find_children(module) for module in members) for room, members in modules.items()}
    return counts, dict(sorted(imports.items()))


def place_rooms(lines: list[list[str]], counts: dict[str, int]) -> dict[str, Room]:
    """Return the boxes, evenly spaced on their line. A single room on the lowest line fills the width."""
    rooms = {}
    for number, names in enumerate(lines):
        is_lowest = number == len(lines) - 1 and len(names) == 1
        width = WIDTH - 2 * MARGIN if is_lowest else BOX_WIDTH
        for place, name in enumerate(names, 1):
            middle = WIDTH * (2 * place - 1) // (2 * len(names))
            rooms[name] = Room(name, number, middle - width // 2, width, counts[name])
    return rooms


def gaps(rooms: dict[str, Room], line: int) -> list[int]:
    """Return the positions where an arrow can pass a line: between its boxes and beside them."""
    boxes = sorted((room.left, room.left + room.width) for room in rooms.values() if room.line == line)
    edges = [0, *(edge for box in boxes for edge in box), WIDTH]
    return [(left + right) // 2 for left, right in zip(edges[::2], edges[1::2], strict=True)]


def draw_arrows(rooms: dict[str, Room], imports: dict[tuple[str, str], int]) -> list[str]:
    """Return the arrows as SVG: each leaves a box below, passes lines through their gaps, and ends at a box's top."""
    lanes: dict[tuple[str, int, int], int] = defaultdict(int)

    def lane(kind: str, line: int, place: int) -> int:
        """Return the next free position beside the existing arrows."""
        number = lanes[kind, line, place]
        lanes[kind, line, place] += 1
        return place + LANE * ((number + 1) // 2) * (1 if number % 2 else -1)

    drawn = []
    names = list(rooms)
    for (source, target), count in imports.items():
        start, end = rooms[source], rooms[target]
        points = [(lane("below", start.line, start.middle), start.top + BOX_HEIGHT)]
        for line in range(start.line + 1, end.line):
            gap = min(gaps(rooms, line), key=lambda gap: (abs(gap - points[-1][0]), gap))
            x, top = lane("gap", line, gap), MARGIN + line * LINE_HEIGHT
            points += [(x, top), (x, top + BOX_HEIGHT)]
        wide = end.width > BOX_WIDTH
        points.append((points[-1][0] if wide else lane("above", end.line, end.middle), end.top))
        path = f"M{points[0][0]},{points[0][1]}"
        for (x, y), (next_x, next_y) in itertools.pairwise(points):
            half = (y + next_y) // 2
            path += f" C{x},{half} {next_x},{half} {next_x},{next_y}"
        number = names.index(source) % len(COLOURS)
        title = f"<title>{source} imports {target}: {count} {'import' if count == 1 else 'imports'}</title>"
        drawn.append(f'<path d="{path}" stroke="{COLOURS[number]}" marker-end="url(#tip{number})">{title}</path>')
    return drawn


def draw(graph: grimp.ImportGraph, pyproject: str) -> str:
    """Return the picture of the rooms as SVG."""
    lines = read_lines(pyproject)
    counts, imports = count_imports(graph, [name for line in lines for name in line])
    rooms = place_rooms(lines, counts)
    height = 2 * MARGIN + (len(lines) - 1) * LINE_HEIGHT + BOX_HEIGHT
    svg = [HEAD.format(WIDTH, height), f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>', "<defs>"]
    for number, colour in enumerate(COLOURS):
        svg.append(f'{TIP.format(f"tip{number}")}<path d="M0,0 8,4 0,8z" fill="{colour}"/></marker>')
    svg += ["</defs>", '<g fill="none" stroke-width="1.4">', *draw_arrows(rooms, imports), "</g>"]
    for number, room in enumerate(rooms.values()):
        colour = COLOURS[number % len(COLOURS)]
        svg.append(f'<rect x="{room.left}" y="{room.top}" width="{room.width}" height="{BOX_HEIGHT}" rx="6" '
                   f'fill="#f7f7f4" stroke="{colour}" stroke-width="1.6"/>')  # fmt: skip
        svg.append(f'<text x="{room.middle}" y="{room.top + 20}" font-size="16" font-weight="bold">{room.name}</text>')
        modules = f"{room.modules} {'module' if room.modules == 1 else 'modules'}"
        svg.append(f'<text x="{room.middle}" y="{room.top + 37}" font-size="12" fill="#555555">{modules}</text>')
    return "\n".join([*svg, "</svg>", ""])


def draw_project(root: pathlib.Path) -> str:
    """Return the picture of a project. Python must import the package from this project."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    return draw(graph, (root / "pyproject.toml").read_text(encoding="utf-8"))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.path.insert(0, str(ROOT / "src"))
    PICTURE.write_text(draw_project(ROOT), encoding="utf-8")
    print(f"wrote {PICTURE.relative_to(ROOT)}")
