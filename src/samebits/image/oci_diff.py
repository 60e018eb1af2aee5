"""Compares two images in OCI layout, file by file. Uses only the standard library; never writes.

Source: OCI image-spec 1.0 (index.json, manifest, config, layers as tar archives).
"""

import hashlib
import json
import pathlib
import tarfile
from dataclasses import dataclass
from typing import Any

from samebits.core.errors import EngineError


@dataclass(frozen=True)
class Image:
    """An image on disk: its manifest's digest, its configuration, and the archives of its layers, lowest first."""

    digest: str
    config: dict[str, Any]
    layers: list[pathlib.Path]


def read_layout(folder: pathlib.Path) -> Image:
    """Return the image of an OCI layout.

    Raises:
        EngineError: The folder has no image, or more than one.
    """

    def blob(digest: str) -> pathlib.Path:
        return folder / "blobs" / digest.replace(":", "/")

    try:
        (entry,) = json.loads((folder / "index.json").read_text())["manifests"]
        manifest = json.loads(blob(entry["digest"]).read_text())
        config = json.loads(blob(manifest["config"]["digest"]).read_text())
        return Image(entry["digest"], config, [blob(layer["digest"]) for layer in manifest["layers"]])
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(
            f"{folder}",
            expected="an OCI layout with one image",
            received=f"{type(error).__name__}: {error}",
            fix="export it again",
        ) from error


def layer_entries(layer: pathlib.Path) -> dict[str, dict[str, object]]:
    """Return path -> kind, owner, permissions, time, link target and content digest, from a layer's archive."""
    found: dict[str, dict[str, object]] = {}
    with tarfile.open(layer, "r|*") as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isreg() else None
            content = hashlib.sha256()
            while stream and (piece := stream.read(1 << 20)):
                content.update(piece)
            found["/" + member.name.removeprefix("./").strip("/")] = {
                "kind": member.type.decode(),
                "owner": (member.uid, member.gid, member.uname, member.gname),
                "permissions": oct(member.mode),
                "time": member.mtime,
                "target": member.linkname,
                "content": content.hexdigest(),
            }
    return found


def _differing_entries(number: int, left: pathlib.Path, right: pathlib.Path) -> list[str]:
    if left.name == right.name:
        return []
    one, two = layer_entries(left), layer_entries(right)
    lines = []
    for path in sorted({*one, *two}):
        if path not in one or path not in two:
            lines.append(f"layer {number} {path}: only in the {'first' if path in one else 'second'}")
        elif one[path] != two[path]:
            parts = [key for key in one[path] if one[path][key] != two[path][key]]
            lines.append(f"layer {number} {path}: different {', '.join(parts)}")
    return lines or [f"layer {number}: same files, but different order or compression"]


def differences(first: Image, second: Image) -> list[str]:
    """Return one line per file and per key of the configuration that differs; empty if the images are equal."""
    lines = []
    if len(first.layers) != len(second.layers):
        lines.append(f"{len(first.layers)} layers and {len(second.layers)}")
    for number, (left, right) in enumerate(zip(first.layers, second.layers, strict=False), start=1):
        lines += _differing_entries(number, left, right)
    one, two = ({**image.config, **image.config.get("config", {})} for image in (first, second))
    keys = sorted(key for key in {*one, *two} - {"config", "rootfs"} if one.get(key) != two.get(key))
    return lines + [f"configuration {key}: {one.get(key)} and {two.get(key)}" for key in keys]
