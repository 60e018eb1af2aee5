"""Finds operations in a traced step and a model that round differently on other CPUs.

`samebits.portable.exact` gave most of them exact versions before; these are left. `python -m zoo` measured which
operations are portable and which are not (docs/zoo.md).
"""

import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from samebits.portable.exact import CACHE_SIZED, DECOMPOSITIONS, EXACT, MAX_MATRIX_SIZE, not_portable

APPROXIMATE = "an approximate instruction that differs between CPU vendors"
COMPILED = "compiled for the instruction set of the current CPU"
# Keras 3.15 always compiles a convolution with groups with XLA.
XLA_ADVICE = "no jit_compile (for a convolution with groups, one convolution per slice, concatenated)"
REFUSED = {
    **dict.fromkeys(
        ("Reciprocal", "Inv", "ReciprocalGrad", "InvGrad", "Rsqrt", "RsqrtGrad", "Erfc", "Erfinv", "Ndtri", "Atan",
         "Atan2", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "FusedBatchNormGrad",
         "FusedBatchNormGradV2", "FusedBatchNormGradV3"),
        APPROXIMATE,
    ),
    **dict.fromkeys(DECOMPOSITIONS, CACHE_SIZED),
}  # fmt: skip
ADVICE = {
    **dict.fromkeys(EXACT, "TensorFlow's Python function with real numbers, not a saved graph"),
    **dict.fromkeys([name for name in REFUSED if name.startswith("FusedBatchNorm")], "keras.layers.BatchNormalization"),
    **dict.fromkeys(
        ("MatrixInverse", "MatrixSolve"), f"matrices of at most {MAX_MATRIX_SIZE} rows, in a shape that is known"
    ),
}
DECOMPOSITION_ADVICE = "a result that is computed once and stored with the data"
# Only check, compare or copy values, so their bits cannot differ.
COPIES = frozenset(
    ("Assert", "Bucketize", "CollectiveGatherV2", "DynamicStitch", "LookupTableFindV2", "OnesLike", "PadV2",
     "PlaceholderWithDefault", "SplitV",
     "RaggedTensorToTensor", "StaticRegexReplace", "StringLower", "StringSplitV2", "TensorScatterUpdate")
)  # fmt: skip
MEASURED = pathlib.Path(__file__).with_name("measured_operations.json")
LOSS_SCOPE = "compile_loss"  # Keras 3.15


@dataclass(frozen=True)
class Finding:
    """One operation or initializer that is not portable.

    Attributes:
        owner: Where it comes from, e.g. "layer norm (BatchNormalization)".
        what: The operation or the initializer.
        reason: Why its bits depend on the CPU.
        instead: What to use instead.
    """

    owner: str
    what: str
    reason: str
    instead: str


def layer_of(path: str, layers: dict[str, keras.Layer]) -> keras.Layer | None:
    """Return the innermost layer in an operation's path. TensorFlow adds a number to repeated scopes."""
    for part in reversed(path.split("/")[:-1]):
        layer = layers.get(part) or layers.get(re.sub(r"_\d+$", "", part))
        if layer is not None:
            return layer
    return None


def _owner(path: str, layers: dict[str, keras.Layer], scopes: Mapping[str, str]) -> str:
    """Return where an operation comes from, in words."""
    layer = layer_of(path, layers)
    if layer is not None:
        return f"layer {layer.name} ({type(layer).__name__})"
    parts = [re.sub(r"_\d+$", "", part) for part in path.split("/")]
    return next((scopes[part] for part in parts if part in scopes), f"operation {path}")


def scopes_of(loss: str, optimizers: Iterable[Any]) -> dict[str, str]:
    """Return scope in the operations' paths -> the loss or optimizer that it belongs to, in words."""
    return {LOSS_SCOPE: f"loss {loss}"} | {each.name: f"optimizer {type(each).__name__}" for each in optimizers}


def inexact_operations(nodes: list[Any], model: keras.Model, scopes: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the operations of a traced function that are not portable.

    Args:
        nodes: The nodes of the function's graph.
        model: The model; the names of its layers are in the operations' paths.
        scopes: From `scopes_of`.
    """
    layers = {layer.name: layer for layer in model._flatten_layers()}  # noqa: SLF001  no public name (Keras 3.15)
    compiled = [node.name for node in nodes if node.attr["_XlaMustCompile"].b]
    # A call inside another function has no path; its caller has one.
    for path in [path for path in compiled if "/" in path] or compiled:
        yield Finding(_owner(path, layers, scopes), "XLA", COMPILED, XLA_ADVICE)
    for node in nodes:
        if node.op in REFUSED and not _is_float64(node):
            owner = _owner(node.name, layers, scopes)
            yield Finding(owner, node.op, REFUSED[node.op], ADVICE.get(node.op, DECOMPOSITION_ADVICE))


def _is_float64(node: Any) -> bool:
    """Return whether an elementwise operation uses float64, which has no approximate instructions."""
    return bool(node.attr["T"].type == 2) and REFUSED[node.op] == APPROXIMATE  # noqa: PLR2004  DT_DOUBLE


def check_portable(findings: Iterable[Finding]) -> None:
    """Refuse a model with operations that are not portable.

    Raises:
        NotPortableError: There are findings; the error names each one and what to use instead.
    """
    unique = list(dict.fromkeys(findings))
    if not unique:
        return
    culprits = "; ".join(f"{found.owner} uses {found.what}, {found.reason}" for found in unique)
    instead = "; ".join(dict.fromkeys(f"{found.instead} for {found.owner}" for found in unique))
    raise not_portable(culprits, ", ".join(dict.fromkeys(found.what for found in unique)), f"use {instead}")


def unmeasured_operations(nodes: list[Any]) -> list[str]:
    """Return the types of operations that compute and that `python -m zoo` has not measured."""
    measured = set(json.loads(MEASURED.read_text(encoding="utf-8")))
    return sorted({node.op for node in nodes} - measured - COPIES - set(REFUSED))
