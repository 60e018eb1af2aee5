"""Reads which variables each statement of a script assigns or mentions, and which of them only hold times.

A time that a script measures, such as `elapsed = time.time() - start`, differs in each run and is no fault.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from samebits.core.source_names import CLOCKS, dotted_name, find_aliases

ALL_CLOCKS = CLOCKS | {
    "time.process_time", "time.localtime", "time.gmtime", "time.ctime", "time.strftime", "time.asctime",
    "datetime.date.today",
}  # fmt: skip
# Functions and methods whose result is a time if they get one.
KEEPS_TIME = {
    "int", "float", "str", "round", "abs", "min", "max", "sum", "divmod", "format", "total_seconds", "isoformat",
    "strftime", "timestamp", "timedelta", "localtime", "gmtime", "fromtimestamp", "date", "astimezone",
}  # fmt: skip
SIMPLE = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.Return, ast.Assert, ast.Delete)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
CONTAINERS = (ast.Dict, ast.List, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp, ast.Lambda)
CONSTANT = (ast.Constant, ast.List, ast.Dict, ast.Tuple)


@dataclass(frozen=True)
class Statement:
    """One statement, or the header of one that contains others.

    Attributes:
        line: Its first line.
        names: The variables that it assigns, then those that it mentions, without those that only hold times.
        measures: Whether it mentions a clock, or a variable that only holds times.
        imports: Whether it is an import.
    """

    line: int
    names: tuple[str, ...]
    measures: bool = False
    imports: bool = False


@dataclass
class Times:
    """The places of a script that only hold times.

    Attributes:
        names: (scope, variable).
        parts: Attributes and keys.
    """

    names: set[tuple[str, str]] = field(default_factory=set)
    parts: set[str] = field(default_factory=set)


class Source:
    """The statements of one file.

    Args:
        text: Its source code.

    Attributes:
        statements: Line -> statement. A statement has all of its lines.
        times: What only holds times.
    """

    def __init__(self, text: str) -> None:
        self.tree = ast.parse(text)
        self.aliases = find_aliases(self.tree)
        self.scopes = {id(node): scope for node, scope in walk_scopes(self.tree, "")}
        self.times = Times()
        self._find_times()
        self.statements: dict[int, Statement] = {}
        for node in ast.walk(self.tree):
            self._add(node)

    def _add(self, node: ast.AST) -> None:
        if not isinstance(node, ast.stmt):
            return
        parts = header(node)
        if parts is None:
            return
        scope = self.scopes[id(node)]
        names = [name for part in parts for name in mentioned(part)]
        kept = dict.fromkeys(name for name in names if not self._is_time_name(scope, name))
        measures = any(self._touches_time(part, scope) for part in parts)
        end = (
            node.end_lineno
            if isinstance(node, SIMPLE)
            else max((getattr(part, "end_lineno", 0) for part in parts), default=0)
        )
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno, max(end or 0, node.lineno) + 1):
            before = self.statements.get(line)
            if before is not None and before.line == line:  # `a = 1; b = 2`
                kept = dict.fromkeys([*before.names, *kept])
            self.statements[line] = Statement(node.lineno, tuple(kept), measures, is_import)

    def _is_time_name(self, scope: str, name: str) -> bool:
        return (scope, name) in self.times.names or (
            ("", name) in self.times.names and (scope, name) not in self._assigned
        )

    def is_clock(self, node: ast.AST) -> bool:
        """Return whether a node is a call of a clock."""
        return isinstance(node, ast.Call) and dotted_name(node.func, self.aliases) in ALL_CLOCKS

    def _touches_time(self, node: ast.AST, scope: str) -> bool:
        """Return whether an expression contains a clock or something that only holds times."""
        for part in ast.walk(node):
            if self.is_clock(part):
                return True
            if isinstance(part, ast.Name) and self._is_time_name(scope, part.id):
                return True
            if isinstance(part, ast.Attribute) and part.attr in self.times.parts:
                return True
            if isinstance(part, ast.Subscript) and constant_key(part.slice) in self.times.parts:
                return True
        return False

    def _is_time(self, node: ast.AST, scope: str) -> bool:
        """Return whether the value of an expression is a time: made from clocks by arithmetic and formatting alone."""
        if not self._touches_time(node, scope):
            return False
        for part in ast.walk(node):
            if isinstance(part, CONTAINERS):
                return False
            if isinstance(part, ast.Call) and not self.is_clock(part):
                last = part.func.attr if isinstance(part.func, ast.Attribute) else ast.unparse(part.func)
                if last not in KEEPS_TIME:
                    return False
        return True

    def _find_times(self) -> None:
        """Find what is assigned from times alone, until nothing new is found."""
        pairs = list(self._assignments())
        self._assigned = {target for target, _, _ in pairs if isinstance(target, tuple)}
        size = -1
        while size != len(self.times.names) + len(self.times.parts):
            size = len(self.times.names) + len(self.times.parts)
            values: dict[tuple[str, str] | str, list[tuple[ast.AST | None, str]]] = {}
            for target, value, scope in pairs:
                values.setdefault(target, []).append((value, scope))
            for target, given in values.items():
                are = [value is not None and self._is_time(value, scope) for value, scope in given]
                if any(are) and all(
                    is_time or isinstance(value, CONSTANT) for is_time, (value, _) in zip(are, given, strict=True)
                ):
                    if isinstance(target, tuple):
                        self.times.names.add(target)
                    else:
                        self.times.parts.add(target)

    def _assignments(  # noqa: C901  one branch per kind of statement
        self,
    ) -> Iterator[tuple[tuple[str, str] | str, ast.AST | None, str]]:
        """Yield (variable, attribute or key; its value; scope) of every assignment. None: it gets any value."""
        for node in ast.walk(self.tree):
            scope = self.scopes[id(node)]
            if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and node.value is not None:
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    yield from targets(target, node.value, scope)
            elif isinstance(node, ast.NamedExpr):
                yield from targets(node.target, node.value, scope)
            elif isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if key is not None and constant_key(key):
                        yield constant_key(key), value, scope
            elif isinstance(node, ast.For | ast.comprehension):
                yield from targets(node.target, None, scope)
            elif isinstance(node, ast.arg):
                yield (scope, node.arg), None, scope
            elif isinstance(node, ast.Call) and is_append(node):
                yield (scope, ast.unparse(node.func)[: -len(".append")]), node.args[0], scope


def is_append(node: ast.Call) -> bool:
    """Return whether a call appends to a variable."""
    method = isinstance(node.func, ast.Attribute) and node.func.attr in ("append", "extend")
    return method and len(node.args) == 1 and isinstance(node.func.value, ast.Name)  # type: ignore[attr-defined]


def constant_key(node: ast.AST) -> str:
    """Return a constant text; "" for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def targets(
    node: ast.AST, value: ast.AST | None, scope: str
) -> Iterator[tuple[tuple[str, str] | str, ast.AST | None, str]]:
    """Yield what one target of an assignment assigns."""
    if isinstance(node, ast.Name):
        yield (scope, node.id), value, scope
    elif isinstance(node, ast.Attribute):
        yield node.attr, value, scope
    elif isinstance(node, ast.Subscript) and constant_key(node.slice):
        yield constant_key(node.slice), value, scope
    elif isinstance(node, ast.Tuple | ast.List):
        values = node.elts
        pairs = value.elts if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(values) else None
        for number, part in enumerate(values):
            yield from targets(part, pairs[number] if pairs else None, scope)


def walk_scopes(node: ast.AST, scope: str) -> Iterator[tuple[ast.AST, str]]:
    """Yield every node below one with the function or class that it belongs to; "" for the module."""
    yield node, scope
    for child in ast.iter_child_nodes(node):
        inner = f"{scope}.{id(child)}" if isinstance(child, SCOPES) else scope
        yield from ((each, place if each is not child else scope) for each, place in walk_scopes(child, inner))


def header(node: ast.stmt) -> list[ast.AST] | None:
    """Return the parts of a statement that it evaluates itself. None: nothing of it is recorded."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return []
    if isinstance(node, SIMPLE):
        return [node]
    if isinstance(node, ast.For | ast.AsyncFor):
        return [node.target, node.iter]
    if isinstance(node, ast.While | ast.If):
        return [node.test]
    if isinstance(node, ast.With | ast.AsyncWith):
        return [part for item in node.items for part in (item.optional_vars, item.context_expr) if part is not None]
    return None


def mentioned(node: ast.AST) -> list[str]:
    """Return the variables that a part of a statement assigns, then those that it mentions."""
    names = [part for part in ast.walk(node) if isinstance(part, ast.Name)]
    stored = [name.id for name in names if isinstance(name.ctx, ast.Store)]
    return [*stored, *(name.id for name in names if not isinstance(name.ctx, ast.Store))]
