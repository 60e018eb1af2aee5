"""Compares two images on disk, file by file. Uses only the standard library; never writes.

Source: OCI image-spec 1.0 (index.json, manifest, config, layers as tar archives), and Docker image-spec 1.2
(manifest.json of `docker save`).
"""

import hashlib
import json
import pathlib
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from samebits.core.errors import EngineError

Entry = dict[str, object]
# Keys of the configuration that an engine takes from the Dockerfile.
CONFIGURED = ("Cmd", "Entrypoint", "Env", "Labels", "User", "WorkingDir")
# A layer removes a file with this before its name, and all that lower layers have in a folder with the second one.
REMOVED, EMPTIED = ".wh.", ".wh..wh..opq"


@dataclass(frozen=True)
class Image:
    """An image on disk: its digest, its configuration, and the archives of its layers, lowest first."""

    digest: str
    config: dict[str, Any]
    layers: list[pathlib.Path]

    @cached_property
    def files(self) -> dict[str, Entry]:
        """Path -> kind, owner, permissions, link target and content of every file, as a container sees them.

        Without times and names of owners: engines write them differently.
        """
        files: dict[str, Entry] = {}
        for layer in self.layers:
            for path, entry in layer_entries(layer).items():
                folder, _, name = path.rpartition("/")
                if name.startswith(REMOVED):
                    gone = folder if name == EMPTIED else f"{folder}/{name.removeprefix(REMOVED)}"
                    below = [other for other in files if other.startswith(f"{gone}/")]
                    for other in below if name == EMPTIED else [*below, gone]:
                        files.pop(other, None)
                elif path != "/":
                    files[path] = {key: value for key, value in entry.items() if key not in ("time", "names")}
        return files


def read_layout(folder: pathlib.Path) -> Image:
    """Return the image of an OCI layout, or of an extracted archive of `docker save`.

    Raises:
        EngineError: The folder has no image, or more than one.
    """

    def blob(digest: str) -> pathlib.Path:
        return folder / "blobs" / digest.replace(":", "/")

    try:
        if (folder / "manifest.json").exists():
            (saved,) = json.loads((folder / "manifest.json").read_text())
            config = json.loads((folder / saved["Config"]).read_text())
            digest = hashlib.sha256((folder / saved["Config"]).read_bytes()).hexdigest()
            return Image(f"sha256:{digest}", config, [(folder / layer).resolve() for layer in saved["Layers"]])
        (entry,) = json.loads((folder / "index.json").read_text())["manifests"]
        manifest = json.loads(blob(entry["digest"]).read_text())
        config = json.loads(blob(manifest["config"]["digest"]).read_text())
        return Image(entry["digest"], config, [blob(layer["digest"]) for layer in manifest["layers"]])
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(
            f"{folder}",
            expected="an OCI layout or an archive with one image",
            received=f"{type(error).__name__}: {error}",
            fix="export it again",
        ) from error


def layer_entries(layer: pathlib.Path) -> dict[str, Entry]:
    """Return path -> kind, owner, permissions, time, link target and content digest, from a layer's archive."""
    found: dict[str, Entry] = {}
    with tarfile.open(layer, "r|*") as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isreg() else None
            content = hashlib.sha256()
            while stream and (piece := stream.read(1 << 20)):
                content.update(piece)
            found["/" + member.name.removeprefix("./").strip("/")] = {
                "kind": member.type.decode(),
                "owner": (member.uid, member.gid),
                "names": (member.uname, member.gname),
                "permissions": oct(member.mode),
                "time": member.mtime,
                "target": member.linkname,
                "content": content.hexdigest(),
            }
    return found


def files_digest(files: Mapping[str, Entry]) -> str:
    """Return one digest of all files of an image."""
    return "sha256:" + hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


def file_differences(first: Image, second: Image) -> list[str]:
    """Return one line per file, and per key that the Dockerfile sets, that differs, whatever the layers are."""
    lines = _differing(first.files, second.files)
    settings = (
        {key: image.config.get("config", {}).get(key) or None for key in CONFIGURED} for image in (first, second)
    )
    left, right = settings
    return lines + [
        f"configuration {key}: {left[key]} and {right[key]}" for key in CONFIGURED if left[key] != right[key]
    ]


def _differing(one: Mapping[str, Entry], two: Mapping[str, Entry]) -> list[str]:
    lines = []
    for path in sorted({*one, *two}):
        if path not in one or path not in two:
            lines.append(f"{path}: only in the {'first' if path in one else 'second'}")
        elif one[path] != two[path]:
            parts = [key for key in one[path] if one[path][key] != two[path][key]]
            lines.append(f"{path}: different {', '.join(parts)}")
    return lines


def _differing_entries(number: int, left: pathlib.Path, right: pathlib.Path) -> list[str]:
    if left.name == right.name:
        return []
    lines = [f"layer {number} {line}" for line in _differing(layer_entries(left), layer_entries(right))]
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
