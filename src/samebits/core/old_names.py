"""Maps modules of version 0.1, which user code may still import, to their current names."""

import ast
from collections.abc import Iterator

MOVED = {
    "samebits.config": "samebits.core.config",
    "samebits.data": "samebits",
    "samebits.digest": "samebits.core.digest",
    "samebits.errors": "samebits.core.errors",
    "samebits.exact": "samebits.portable.ops",
    "samebits.initializers": "samebits.portable.initializers",
    "samebits.layers": "samebits.portable.layers",
    "samebits.losses": "samebits.portable.losses",
    "samebits.optimizers": "samebits.portable.optimizers",
    "samebits.record": "samebits.core.files",
    "samebits.recurrent": "samebits.portable.lstm",
    "samebits.seeds": "samebits.core.seeds",
}


def import_advice(error: Exception) -> str | None:
    """Return the correct import for one that failed, or None if the module was never in samebits."""
    old = getattr(error, "name", None)
    return f"write `from {MOVED[old]} import …` instead of `from {old} import …`" if old in MOVED else None


def old_imports(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, old module) for every import of a moved module. Yields nothing if the text is not valid Python."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name in MOVED)
