"""Print every seed point of a configuration: python scripts/seeds.py seed.root=57."""

import pathlib
import sys

from rich.console import Console
from rich.table import Table

from samebits import compose
from samebits.core.config import Config
from samebits.core.config_rules import check
from samebits.core.seeds import describe_consumer, resolve_points


def show(config: Config, _root: pathlib.Path) -> int:
    """Print the table: point, value, source, consumer."""
    check(config)
    table = Table("seed point", "value", "source", "consumer", title=f"root seed {config.seed.root}")
    for name, point in resolve_points(config.seed.root, config.seed.policy, config.seed.points).items():
        table.add_row(name, "-" if point.value is None else str(point.value), point.source, describe_consumer(name))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(compose.main(pathlib.Path(__file__).resolve().parent.parent, show))
