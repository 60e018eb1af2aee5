"""Resolves dotted names in source code, with imports and their aliases. Imports only the standard library."""

import ast

CLOCKS = {
    "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.perf_counter_ns",
    "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today",
}  # fmt: skip
LISTS_A_FOLDER = {"listdir", "scandir", "iterdir", "glob", "rglob", "iglob"}  # last part of the name
FORGETS_ORDER = {"sorted", "set", "frozenset", "any", "all", "len", "min", "max"}
SHORT = {"numpy": "np", "tensorflow": "tf"}


def find_aliases(tree: ast.AST) -> dict[str, str]:
    """Return imported name -> full name, e.g. {"shuffle": "random.shuffle", "np": "numpy"}."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.asname: each.name for each in node.names if each.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    return names


def dotted_name(node: ast.expr, aliases: dict[str, str]) -> str:
    """Return a dotted name with its import resolved ("np" for NumPy, "tf" for TensorFlow), or "" for no name."""
    if not isinstance(node, ast.Attribute | ast.Name):
        return ""
    first, dot, rest = ast.unparse(node).partition(".")
    full = aliases.get(first, first) + dot + rest
    package, dot, rest = full.partition(".")
    return SHORT.get(package, package) + dot + rest
