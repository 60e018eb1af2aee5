"""Shell completion of `samebits`: commands, options, and the groups and settings in conf/.

The caller passes the commands and options. The scripts pass the command line up to the cursor.
"""

import dataclasses
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from samebits.core.project import HARNESS_CONF

# bash splits words at "=" and replaces only the part after the last "=".
BASH = """\
_samebits() {
    local line="${COMP_LINE:0:COMP_POINT}" word
    word="${line##* }"
    mapfile -t COMPREPLY < <("$1" complete "$line" 2>/dev/null)
    if [[ $COMP_WORDBREAKS == *=* ]]; then COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*=}"}"}"); fi
    if [[ ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
}
complete -F _samebits samebits
"""
ZSH = """\
_samebits() {
    local -a found
    found=("${(@f)$(${words[1]} complete "$LBUFFER" 2>/dev/null)}")
    compadd -Q -S '' -- ${(M)found:#*=}
    compadd -Q -- ${found:#*=}
}
compdef _samebits samebits
"""
FISH = """\
complete -c samebits -f -a '(samebits complete (commandline -cp | string collect))'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def candidates(
    line: str, options: Mapping[str, Sequence[str]], settable: Collection[str], root: pathlib.Path | None
) -> list[str]:
    """Return the completions of the last word of a command line, sorted.

    Args:
        line: The command line up to the cursor. A space at its end starts a new word.
        options: Command -> its options and choices.
        settable: The commands that accept key=value.
        root: The project's folder. None: no project, so no settings.
    """
    words = line.split()[1:] + [""] * line[-1:].isspace()
    if words[:1] == ["--root"] and len(words) > 2:  # noqa: PLR2004  the option, its folder, and what follows
        words = words[2:]
    *before, word = words or [""]
    command = " ".join(before[:2]) if " ".join(before[:2]) in options else " ".join(before[:1])
    if command in options:
        keys = list(settings(root, word)) if root and command in settable else []
        pool = [*keys, *(each for each in options[command] if word.startswith("-") or not keys)]
    else:  # a command's first word, or its second
        depth = len(before)
        pool = [name.split()[depth] for name in options if name.split()[:depth] == before and name.count(" ") >= depth]
    return sorted({each for each in pool if each.startswith(word)})


def settings(root: pathlib.Path, word: str) -> Iterator[str]:
    """Yield the options of a group if the word has an "=", else all groups and keys."""
    from samebits.core.config import Config  # noqa: PLC0415  imports NumPy, which completing an option does not need

    group, chosen, _ = word.partition("=")
    folders = [folder for conf in (root / "conf", HARNESS_CONF) for folder in sorted(conf.iterdir())]
    for folder in folders:
        if folder.is_dir() and folder.name not in {"hydra", "__pycache__"}:
            files = sorted(folder.glob("*.yaml"))
            yield from [f"{group}={path.stem}" for path in files if chosen and folder.name == group]
            if not chosen:
                yield f"{folder.name}="
                yield from (key for path in files for key in file_keys(path, f"{folder.name}."))
    if not chosen:
        yield from schema_keys(Config)


def file_keys(path: pathlib.Path, group: str) -> Iterator[str]:
    """Yield the dotted keys of a group's YAML file, each with "="."""
    import yaml  # noqa: PLC0415  also not needed for options

    text = path.read_text(encoding="utf-8")
    yield from tree_keys(yaml.safe_load(text), "" if "@package _global_" in text else group)


def tree_keys(tree: Any, prefix: str) -> Iterator[str]:
    """Yield the keys of nested mappings, without those of Hydra: `defaults` and keys with a leading underscore."""
    for key, value in (tree if isinstance(tree, dict) else {}).items():
        if isinstance(value, dict):
            yield from tree_keys(value, f"{prefix}{key}.")
        elif not key.startswith("_") and key != "defaults":
            yield f"{prefix}{key}="


def schema_keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """Yield the keys of the typed schema that hold a single value."""
    for field in dataclasses.fields(schema):
        part: Any = field.default_factory
        if dataclasses.is_dataclass(part):
            yield from schema_keys(part, f"{prefix}{field.name}.")
        elif part is not dict:
            yield f"{prefix}{field.name}="
