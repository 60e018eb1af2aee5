"""Edits the source of a script: replaces expressions, and adds lines where imports end."""

import ast
from collections.abc import Iterator

from samebits.core.source_names import dotted_name, find_aliases

Node = ast.expr | ast.stmt


class Editor:
    """The edits of one file.

    Args:
        text: Its source code.
    """

    def __init__(self, text: str) -> None:
        self.data = text.encode()
        self.tree = ast.parse(text)
        self.aliases = find_aliases(self.tree)
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self._starts = [0]
        for line in self.data.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._edits: list[tuple[int, int, str]] = []

    def _offset(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def span(self, node: Node) -> tuple[int, int]:
        """Return where the source of a node begins and ends."""
        return self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno or 0, node.end_col_offset or 0)

    def source(self, node: Node) -> str:
        """Return the source of a node."""
        start, end = self.span(node)
        return self.data[start:end].decode()

    def replace(self, node: Node, text: str) -> None:
        """Replace the source of a node."""
        self._edits.append((*self.span(node), text))

    def insert_at_end(self, node: Node, text: str) -> None:
        """Add text before the last character of a node, the bracket of a call."""
        end = self.span(node)[1] - 1
        self._edits.append((end, end, text))

    def insert_line(self, line: int, text: str) -> None:
        """Add lines before a line; the number may be one above the last."""
        start = self._starts[min(line, len(self._starts)) - 1]
        lead = "\n" if start and not self.data[:start].endswith(b"\n") else ""
        self._edits.append((start, start, f"{lead}{text}\n"))

    def delete(self, node: ast.stmt) -> None:
        """Delete the lines of a statement."""
        start = self._starts[node.lineno - 1]
        self._edits.append((start, self._starts[min(node.end_lineno or 0, len(self._starts) - 1)], ""))

    def text(self) -> str:
        """Return the edited source."""
        data, done = self.data, set()
        for start, end, new in sorted(self._edits, key=lambda edit: edit[:2], reverse=True):
            if (start, end, new) not in done:
                data = data[:start] + new.encode() + data[end:]
            done.add((start, end, new))
        return data.decode()

    def called(self, node: ast.AST) -> str:
        """Return the full name of the function that a call calls; "" for anything else."""
        if not isinstance(node, ast.Call):
            return ""
        last = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        return dotted_name(node.func, self.aliases) or last

    def calls(self, line: int) -> Iterator[ast.Call]:
        """Yield the calls that begin on a line, or else those around it."""
        found = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        yield from [node for node in found if node.lineno == line] or [
            node for node in found if node.lineno <= line <= (node.end_lineno or 0)
        ]

    def after_imports(self) -> int:
        """Return the line of the first statement that is no import, docstring or setting of a variable."""
        for node in self.tree.body:
            text = ast.unparse(node)
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if isinstance(node, ast.Import | ast.ImportFrom) or is_docstring:
                continue
            if text.startswith(("os.environ", "warnings.", "matplotlib.use")):
                continue
            decorators = getattr(node, "decorator_list", [])
            return int(min([node.lineno, *(decorator.lineno for decorator in decorators)]))
        return len(self._starts)

    def before_imports(self) -> int:
        """Return the line of the first statement after docstring and `from __future__`."""
        for node in self.tree.body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if not is_docstring and not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
                return node.lineno
        return len(self._starts)

    def name_of(self, module: str, before: int) -> str:
        """Return the name under which the file has imported a module above a line; "" if it has not."""
        for node in self.tree.body:
            if node.lineno >= before:
                break
            if isinstance(node, ast.Import):
                for each in node.names:
                    if each.name == module or (each.asname is None and each.name.startswith(f"{module}.")):
                        return each.asname or each.name.partition(".")[0]
            elif isinstance(node, ast.ImportFrom):
                for each in node.names:
                    if f"{node.module}.{each.name}" == module:
                        return each.asname or each.name
        return ""
