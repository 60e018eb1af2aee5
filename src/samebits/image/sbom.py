"""Lists what the image is made from: an SBOM (software bill of materials) in the format CycloneDX, from the lock alone.

Source: CycloneDX 1.5 (JSON); package URLs as in the purl specification.
"""

import json
import pathlib
import re
from typing import Any

from samebits.core.errors import EngineError
from samebits.image.container import project_name
from samebits.runtime.lockfile import locked_versions, read_lock

FORMAT = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1}


def base_image(root: pathlib.Path) -> str:
    """Return the base that the Dockerfile names, with its digest.

    Raises:
        EngineError: The Dockerfile names none.
    """
    text = (root / "Dockerfile").read_text(encoding="utf-8")
    found = re.search(r"(?m)^ARG BASE_IMAGE=(\S+)$", text)
    if not found:
        raise EngineError(
            f"{root / 'Dockerfile'}", expected="a line ARG BASE_IMAGE=…", received="none", fix="name the base there"
        )
    return found[1]


def container_component(image: str) -> dict[str, Any]:
    """Return the entry of the base image: python:3.12-slim-bookworm@sha256:…."""
    name, _, digest = image.partition("@")
    repository, _, tag = name.partition(":")
    purl = (
        f"pkg:oci/{repository.rpartition('/')[2]}@{digest}?tag={tag}" if digest else f"pkg:oci/{repository}?tag={tag}"
    )
    return {"type": "container", "name": repository, "version": tag, "purl": purl, "bom-ref": purl}


def package_component(name: str, version: str, hashes: list[str]) -> dict[str, Any]:
    """Return the entry of a Python package; the hashes are those of its files, of which one is installed."""
    purl = f"pkg:pypi/{name}@{version}"
    found = [{"alg": "SHA-256", "content": each} for each in hashes]
    return {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl, "hashes": found}


def describe(root: pathlib.Path, base: str = "") -> str:
    """Return the SBOM as JSON, the same bytes each time: the base and each package that the lock installs here.

    Args:
        root: The project's folder.
        base: The base image; empty: the one in the Dockerfile.

    Raises:
        EngineError: The Dockerfile names no base.
    """
    versions = locked_versions(root)
    hashes: dict[str, list[str]] = {}
    for locked in read_lock(root):
        if f"=={versions.get(locked.name)}" in locked.requirement:
            hashes[locked.name] = sorted(re.findall(r"--hash=sha256:(\w+)", locked.text))
    components = [package_component(name, versions[name], hashes[name]) for name in sorted(versions)]
    about = {"component": {"type": "application", "name": project_name(root), "bom-ref": project_name(root)}}
    everything = [container_component(base or base_image(root)), *components]
    return json.dumps({**FORMAT, "metadata": about, "components": everything}, indent=1)
