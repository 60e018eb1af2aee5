"""Modules of version 0.1 that user code may still import, and where their contents are now."""

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
    """Return what to write instead of an import that failed; None: the module never was in samebits."""
    old = getattr(error, "name", None)
    return f"write `from {MOVED[old]} import …` instead of `from {old} import …`" if old in MOVED else None


def old_imports(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, old module) for every import of a module that has moved; nothing if Python cannot read the text."""
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
