"""Turns the proved causes of a script into the smallest set of changes, as edits of its files."""

import ast
import functools
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from samebits.checks.script.editor import Editor
from samebits.checks.script.search import Cause, Findings
from samebits.checks.script.trial import INTRA_OP_THREADS, PINNED_BY_ENVIRONMENT
from samebits.core.source_names import FORGETS_ORDER, LISTS_A_FOLDER
from samebits.runtime.probe.statements import KEEPS_TIME, Source

MAKERS = {
    "default_rng",
    "RandomState",
    "SeedSequence",
    "Random",
    "seed",
    "PCG64",
    "PCG64DXSM",
    "MT19937",
    "Philox",
    "SFC64",
}
FIRST = "random.Random(0)"
# What comes from the operating system -> what gives the same numbers each time; {0} is the first argument.
REPLACEMENTS = {
    "os.urandom": f"{FIRST}.randbytes({{0}})",
    "os.getrandom": f"{FIRST}.randbytes({{0}})",
    "secrets.token_bytes": f"{FIRST}.randbytes({{0}})",
    "secrets.token_hex": f"{FIRST}.randbytes({{0}}).hex()",
    "secrets.randbelow": f"{FIRST}.randrange({{0}})",
    "secrets.randbits": f"{FIRST}.getrandbits({{0}})",
    "secrets.choice": f"{FIRST}.choice({{0}})",
    "secrets.SystemRandom": FIRST,
    "random.SystemRandom": FIRST,
    "uuid.uuid1": f"uuid.UUID(int={FIRST}.getrandbits(128))",
    "uuid.uuid4": f"uuid.UUID(int={FIRST}.getrandbits(128))",
    "os.getpid": "0",
}
ITERATES = {"list", "tuple", "enumerate", "iter", "zip", "np.array", "np.asarray", "dict.fromkeys", "join", "extend"}
SET_METHODS = {"union", "intersection", "difference", "symmetric_difference", "copy"}
SETS = {"set", "frozenset"}
SHOWS = {"print", "append", "info", "debug", "write"}
SEEDED = ("python", "numpy", "tensorflow")


@dataclass
class Changes:
    """What to change.

    Attributes:
        files: File -> its new text.
        environment: Variables with which to start Python.
        notes: What has no edit, in words.
    """

    files: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Seeds:
    """Seeds the global generators of one script.

    Args:
        findings: The causes.
        script: The name of the script's file.
        read: Returns the text of one of its files.
        sorted_sets: Whether sets are sorted where the script goes through them; else PYTHONHASHSEED is fixed.
    """

    def __init__(
        self, findings: Findings, script: str, read: Callable[[str], str], *, sorted_sets: bool = True
    ) -> None:
        self.findings, self.script, self.read, self.sorted_sets = findings, script, read, sorted_sets
        self.editors: dict[str, Editor] = {}
        self.changes = Changes()
        self.top: list[str] = []  # lines above the imports
        self.imports: list[str] = []
        self.lines: list[str] = []  # below the imports

    def editor(self, name: str) -> Editor:
        """Return the editor of a file."""
        if name not in self.editors:
            self.editors[name] = Editor(self.read(name))
        return self.editors[name]

    def _uses(self, name: str) -> list[tuple[str, int]]:
        """Return every line that uses a source, in the whole record."""
        rows = [row for record in self.findings.records for row in record.events]
        return list(
            dict.fromkeys((row["file"], row["line"]) for row in rows if row["event"] == name and row["verb"] == "draw")
        )

    def _library(self, module: str, import_line: str, name: str) -> str:
        """Return the name of a module in the script, which gets an import if it has none."""
        editor = self.editor(self.script)
        known = editor.name_of(module, editor.after_imports())
        if not known:
            self.imports.append(import_line)
        return known or name

    def _seeds(self, causes: list[Cause], names: list[str]) -> None:
        """Seed the global generators, with the script's own seed if it only comes too late."""
        kinds = {cause.name for cause in causes} | ({"tensorflow"} if "determinism" in names else set())
        editor = self.editor(self.script)
        for cause in causes:
            node = self._late(cause) if cause.name in kinds else None
            if node is not None:
                editor.delete(node)
                self.lines.append(editor.source(node))
                moved = editor.called(node.value) if isinstance(node, ast.Expr) else ""
                kinds -= set(SEEDED) if moved.endswith("set_random_seed") else {cause.name}
        uses_keras = any(row["event"] == "tensorflow" for row in self.findings.records[0].events)
        no_random = not editor.name_of("random", 1 << 30)
        if "tensorflow" in kinds or ("python" in kinds and uses_keras and no_random):
            self.lines.append(f"{self._keras()}.utils.set_random_seed(0)")
            kinds = set()
        if "python" in kinds:
            self.lines.append(f"{self._library('random', 'import random', 'random')}.seed(0)")
        if "numpy" in kinds:
            self.lines.append(f"{self._library('numpy', 'import numpy as np', 'np')}.random.seed(0)")
        order = ("seed", "determinism")
        self.lines.sort(key=lambda line: next((n for n, word in enumerate(order) if word in line), len(order)))

    def _late(self, cause: Cause) -> ast.stmt | None:
        """Return the statement that seeds too late, if it can be moved to the top as it is."""
        if cause.late_seed is None or cause.late_seed[0] != self.script:
            return None
        editor = self.editor(self.script)
        for node in editor.tree.body:
            if node.lineno == cause.late_seed[1] and isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                values = [*node.value.args, *(word.value for word in node.value.keywords)]
                first = ast.unparse(node.value.func).partition(".")[0]
                if all(isinstance(value, ast.Constant) for value in values) and self._imported_above(first):
                    return node
        return None

    def _imported_above(self, name: str) -> bool:
        """Return whether a name is bound by an import at the top of the script."""
        editor = self.editor(self.script)
        top = [node for node in editor.tree.body if node.lineno < editor.after_imports()]
        imports = [node for node in top if isinstance(node, ast.Import | ast.ImportFrom)]
        return name in {(each.asname or each.name).partition(".")[0] for node in imports for each in node.names}

    def _keras(self) -> str:
        editor = self.editor(self.script)
        end = editor.after_imports()
        for module in ("keras", "tensorflow.keras"):
            name = editor.name_of(module, end)
            if name:
                return name
        tensorflow = editor.name_of("tensorflow", end)
        return f"{tensorflow}.keras" if tensorflow else self._library("keras", "import keras", "keras")


class Maker(Seeds):
    """Makes the changes for the causes of one script; see `Seeds`."""

    def make(self) -> Changes:
        """Return the changes for all causes."""
        names = [cause.name for cause in self.findings.causes]
        for cause in self.findings.causes:
            action = getattr(self, f"_{cause.name}", None)
            if action is not None:
                action(cause)
            elif cause.name in ("zone", "locale"):
                self.changes.environment |= PINNED_BY_ENVIRONMENT[cause.name]
        self._seeds([cause for cause in self.findings.causes if cause.name in SEEDED], names)
        main = self.editor(self.script)
        if self.imports or self.lines:
            main.insert_line(main.after_imports(), "\n".join([*dict.fromkeys(self.imports), *self.lines]))
        if self.top:
            main.insert_line(main.before_imports(), "\n".join(self.top))
        for name, editor in self.editors.items():
            text = editor.text()
            if text != editor.data.decode():
                self.changes.files[name] = text
        return self.changes

    def _unseeded(self, _cause: Cause) -> None:
        for name, line in self._uses("unseeded"):
            editor = self.editor(name)
            for call in editor.calls(line):
                if editor.called(call).rpartition(".")[2] not in MAKERS:
                    continue
                values = [*call.args, *(word.value for word in call.keywords if word.arg == "seed")]
                if not values and not call.keywords:
                    editor.insert_at_end(call, "0")
                elif values and isinstance(values[0], ast.Constant) and values[0].value is None:
                    editor.replace(values[0], "0")

    def _listings(self, _cause: Cause) -> None:
        for name, line in self._uses("listings"):
            editor = self.editor(name)
            for call in editor.calls(line):
                called = editor.called(call)
                if called == "os.walk":
                    walked = f"(path, sorted(folders), sorted(files)) for path, folders, files in {editor.source(call)}"
                    editor.replace(call, f"sorted({walked})")
                elif called.rpartition(".")[2] in LISTS_A_FOLDER:
                    self._sort(editor, call, ", key=lambda entry: entry.name" if called.endswith("scandir") else "")

    def _sort(self, editor: Editor, node: ast.expr, key: str = "") -> None:
        if editor.called(editor.parents[node]) not in FORGETS_ORDER:
            editor.replace(node, f"sorted({editor.source(node)}{key})")

    def _system(self, _cause: Cause) -> None:
        for name, line in self._uses("system"):
            editor = self.editor(name)
            for call in editor.calls(line):
                new = REPLACEMENTS.get(editor.called(call))
                if new is None:
                    continue
                new = new.format(editor.source(call.args[0]) if call.args else "32")
                editor.replace(call, new)
                if FIRST in new:
                    self._import_in(name, "random")
                if new.startswith("uuid."):
                    self._import_in(name, "uuid")

    def _import_in(self, name: str, module: str) -> None:
        """Import a module in a file that has not."""
        editor = self.editor(name)
        if not editor.name_of(module, editor.after_imports()):
            editor.insert_line(editor.after_imports(), f"import {module}")

    def _clock(self, _cause: Cause) -> None:
        lines = self._uses("clock")
        for name, line in [place for place in lines if self._reaches_values(*place)] or lines:
            editor, source = self.editor(name), Source(self.read(name))
            for call in editor.calls(line):
                if source.is_clock(call):
                    editor.replace(call, self._constant(editor, call))

    def _constant(self, editor: Editor, call: ast.Call) -> str:
        last = editor.called(call).rpartition(".")[2]
        if last in ("now", "today", "utcnow") and isinstance(call.func, ast.Attribute):
            return f"{editor.source(call.func.value)}(2000, 1, 1)"
        if last in ("localtime", "gmtime", "ctime", "asctime", "strftime"):
            self.changes.notes.append(f"give a fixed time to {last} in line {call.lineno}")
            return editor.source(call)
        return "0" if last.endswith("_ns") else "0.0"

    def _reaches_values(self, name: str, line: int) -> bool:
        """Return whether a clock's value becomes more than a time: an argument of a function that does not print."""
        editor, source = self.editor(name), Source(self.read(name))
        times = {variable for _, variable in source.times.names}
        stored: set[str] = set()
        for call in editor.calls(line):
            statement = self._statement(editor, call)
            if source.is_clock(call) and uses_value(editor, statement, functools.partial(operator.is_, call)):
                return True
            names = [
                node.id
                for node in ast.walk(statement)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            ]
            stored |= times & set(names)
        return uses_value(editor, editor.tree, lambda node: isinstance(node, ast.Name) and node.id in stored)

    @staticmethod
    def _statement(editor: Editor, node: ast.AST) -> ast.AST:
        while not isinstance(node, ast.stmt):
            node = editor.parents[node]
        return node

    def _order(self, _cause: Cause) -> None:
        for name in {name for name, _ in self._uses("order")}:
            editor = self.editor(name)
            for node in ast.walk(editor.tree):
                value = node.value if isinstance(node, ast.keyword | ast.Assign) else None
                said = node.arg if isinstance(node, ast.keyword) else ""
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                    said = node.targets[0].attr
                if said in ("deterministic", "experimental_deterministic") and isinstance(value, ast.Constant):
                    editor.replace(value, "True")

    def _hash(self, _cause: Cause) -> None:
        found = 0
        if self.sorted_sets:
            sets = {row["what"] for row in self.findings.records[0].rows if row["type"] in SETS}
            for name in {row["file"] for row in self.findings.records[0].rows}:
                editor = self.editor(name)
                for node in iterated_sets(editor, sets):
                    editor.replace(node, f"sorted({editor.source(node)})")
                    found += 1
        if not found:
            self.changes.environment |= PINNED_BY_ENVIRONMENT["hash"]

    def _threads(self, _cause: Cause) -> None:
        if any(row["event"] == "tensorflow" for row in self.findings.records[0].events):
            name = self._library("tensorflow", "import tensorflow as tf", "tf")
            self.lines.append(f"{name}.config.threading.set_intra_op_parallelism_threads({INTRA_OP_THREADS})")
        else:
            self.top += [
                "import os",
                *(f'os.environ["{key}"] = "1"' for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")),
            ]

    def _determinism(self, _cause: Cause) -> None:
        name = self._library("tensorflow", "import tensorflow as tf", "tf")
        self.lines.append(f"{name}.config.experimental.enable_op_determinism()")


def uses_value(editor: Editor, tree: ast.AST, is_value: Callable[[ast.AST], bool]) -> bool:
    """Return whether a value is an argument of a function that neither prints nor formats it."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and editor.called(call).rpartition(".")[2] not in KEEPS_TIME | SHOWS:
            arguments = [*call.args, *(word.value for word in call.keywords)]
            if any(is_value(part) for argument in arguments for part in ast.walk(argument)):
                return True
    return False


def iterated_sets(editor: Editor, names: Iterable[str]) -> list[ast.expr]:
    """Return the expressions of a file that are sets and are gone through in their order.

    Args:
        editor: The file.
        names: The variables that held a set.
    """
    known = set(names)

    def is_set(node: ast.AST) -> bool:
        if isinstance(node, ast.Set | ast.SetComp) or (isinstance(node, ast.Name) and node.id in known):
            return True
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.BitAnd | ast.BitOr | ast.BitXor):
            return is_set(node.left)
        if isinstance(node, ast.Call):
            method = isinstance(node.func, ast.Attribute) and node.func.attr in SET_METHODS and is_set(node.func.value)
            return editor.called(node) in SETS or method
        return False

    found: list[ast.expr] = []
    for node in ast.walk(editor.tree):
        parent = editor.parents.get(node)
        forgets = isinstance(parent, ast.SetComp) or (
            parent in editor.parents and editor.called(editor.parents[parent]) in FORGETS_ORDER
        )
        if isinstance(node, ast.For) or (isinstance(node, ast.comprehension) and not forgets):
            found.append(node.iter)
        elif isinstance(node, ast.Call) and re.sub(r".*\.(?=join$|extend$)", "", editor.called(node)) in ITERATES:
            found += node.args
        elif isinstance(node, ast.Starred):
            found.append(node.value)
    return [node for node in found if is_set(node)]
