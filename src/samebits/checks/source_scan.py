"""Searches source code for randomness that no seed point covers. Not a proof: it runs nothing and follows no calls.

It cannot see randomness inside a library, or a name that is built at run time. `samebits.train.draws` finds many of
these while a training runs.
"""

import ast
import pathlib
from collections.abc import Iterator, Mapping

from samebits.core.source_names import CLOCKS, FORGETS_ORDER, LISTS_A_FOLDER, dotted_name, find_aliases
from samebits.runs.identity import code_files, decides_bits

RANDOM_MODULES = {"random", "np.random", "tf.random", "keras.random"}
ALLOWED_CALLS = {
    "np.random.SeedSequence", "np.random.Generator", "np.random.PCG64", "np.random.get_state", "random.getstate",
    "random.seed", "np.random.seed", "tf.random.set_seed",
}  # fmt: skip
SEEDED_CONSTRUCTORS = {"RandomState", "default_rng", "Random"}
GLOBAL, OF_A_SET = "uses a global generator", "iteration over a set, whose order depends on the hash seed"
FROM_THE_SYSTEM = {"os.urandom", "os.getrandom", "uuid.uuid1", "uuid.uuid4"}
KEEPS_ORDER = {"list", "tuple", "enumerate", "iter", "zip"}


def _draw(call: ast.Call, called: str) -> str | None:
    """Return why a call is unseeded randomness. None: it is not."""
    module, _, last = called.rpartition(".")
    arguments = [*call.args, *(word.value for word in call.keywords)]
    is_seeded = last in SEEDED_CONSTRUCTORS and arguments
    seeds = [word for word in call.keywords if word.arg in ("seed", None)]
    if called in FROM_THE_SYSTEM or module == "secrets" or called == "random.SystemRandom":
        return f"{called} gets randomness from the operating system"
    if module == "tf.random" and (last.startswith("stateless_") or last == "split"):
        return None
    if module == "keras.random" and (
        seeds or last == "SeedGenerator"
    ):  # a generator gets a seed if the code gives none
        return None
    if module in RANDOM_MODULES and called not in ALLOWED_CALLS and not is_seeded:
        is_own = last in SEEDED_CONSTRUCTORS
        return f"{called} without a seed gets one from the operating system" if is_own else f"{called} {GLOBAL}"
    return None


def _is_seeding(call: ast.Call, called: str) -> list[ast.expr]:
    """Return the arguments of a call that are seeds."""
    last = called.rpartition(".")[2]
    if last in SEEDED_CONSTRUCTORS | {
        "seed",
        "set_seed",
        "set_random_seed",
        "SeedSequence",
        "SeedGenerator",
        "PRNGKey",
    }:
        return [*call.args, *(word.value for word in call.keywords)]
    return [word.value for word in call.keywords if word.arg in ("seed", "random_state")]


def _order(node: ast.expr, aliases: dict[str, str]) -> str | None:
    """Return why the order of an iterable is not fixed. None: it is fixed."""
    called = dotted_name(node.func, aliases) if isinstance(node, ast.Call) else ""
    if isinstance(node, ast.Call) and called in KEEPS_ORDER:
        return next((found for found in (_order(part, aliases) for part in node.args) if found), None)
    if isinstance(node, ast.Set | ast.SetComp) or called in ("set", "frozenset"):
        return OF_A_SET
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
        last = node.func.attr if isinstance(node.func, ast.Attribute) else called.rpartition(".")[2]
        if last in LISTS_A_FOLDER:
            return "the order of files depends on the file system: sort them"
    return None


def _keeps_order_of(name: str, tree: ast.AST, aliases: dict[str, str]) -> bool:
    """Return whether a module uses the order of the list of this name, which it never sorts."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    arguments = {id(node.args[0]): dotted_name(node.func, aliases) for node in calls if node.args}
    if any(dotted_name(node.func, aliases) == f"{name}.sort" for node in calls):
        return False
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == name]
    taken_by = [arguments.get(id(node)) for node in uses if isinstance(node.ctx, ast.Load)]
    return "sorted" not in taken_by and not (taken_by and FORGETS_ORDER.issuperset(taken_by))


def scan_text(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, what) for every place in a module with unseeded randomness or iteration in no fixed order."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield error.lineno or 1, f"cannot be read as Python: {error.msg}"
        return
    aliases = find_aliases(tree)
    harmless = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and dotted_name(node.func, aliases) in FORGETS_ORDER
        for argument in node.args
        if isinstance(argument, ast.GeneratorExp | ast.ListComp | ast.SetComp)
        for part in argument.generators
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = dotted_name(node.func, aliases)
            found = _draw(node, called)
            if found is not None:
                yield node.lineno, found
            for seed in _is_seeding(node, called):
                calls = [part for part in ast.walk(seed) if isinstance(part, ast.Call)]
                for clock in sorted(CLOCKS & {dotted_name(part.func, aliases) for part in calls}):
                    yield node.lineno, f"{called} is seeded from the clock, {clock}"
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found = _order(node.value, aliases)
            is_of_files = found is not None and found != OF_A_SET
            if is_of_files and _keeps_order_of(node.targets[0].id, tree, aliases):
                yield node.lineno, str(found)
        iterated = node.iter if isinstance(node, ast.For | ast.comprehension) and id(node) not in harmless else None
        found = _order(iterated, aliases) if iterated is not None else None
        if iterated is not None and found is not None:
            yield iterated.lineno, found


def scan(source: pathlib.Path) -> Iterator[str]:
    """Yield "file:line: what" for every finding in the code under src/ that can change bits.

    These are all packages there, but only some modules of samebits.
    """
    for path in code_files(source):
        if not decides_bits(path.relative_to(source)):
            continue
        for line, what in sorted(scan_text(path.read_text(encoding="utf-8"))):
            yield f"{path.relative_to(source.parent)}:{line}: {what}"


def scan_script(code: Mapping[str, bytes]) -> Iterator[str]:
    """Yield "file, line N: what" for what makes a script differ although its run fixes hash seed and global generators.

    Args:
        code: The script and what it imports from its folder, by path.
    """
    for path, data in code.items():
        for line, what in sorted(scan_text(data.decode())):
            if what != OF_A_SET and not what.endswith(GLOBAL):
                yield f"{path}, line {line}: {what}"
