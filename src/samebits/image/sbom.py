"""Lists what the image is made from: an SBOM (software bill of materials) in the format CycloneDX, from the lock alone.

Source: CycloneDX 1.5 (JSON); package URLs as in the purl specification.
"""

import json
import pathlib
import re
from typing import Any

from samebits.core.errors import EngineError
from samebits.image.container import project_name
from samebits.runtime.lockfile import GPU_LOCK, LOCK, locked_versions, read_lock

LINUX = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
FORMAT = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1}


def base_image(root: pathlib.Path) -> str:
    """Return the base that the Dockerfile names, with its digest.

    Raises:
        EngineError: The Dockerfile names none.
    """
    text = (root / "Dockerfile").read_text(encoding="utf-8")
    line = re.search(r"(?m)^ARG BASE_IMAGE=(\S+)$", text)
    if not line:
        raise EngineError(
            f"{root / 'Dockerfile'}", expected="a line ARG BASE_IMAGE=…", received="none", fix="name the base there"
        )
    return line[1]


def container_component(image: str) -> dict[str, Any]:
    """Return the entry of the base image, such as python:3.12-slim-bookworm with a digest."""
    name, _, digest = image.partition("@")
    folder, slash, last = name.rpartition("/")  # a colon in the folder is that of a port
    last, _, tag = last.partition(":")
    purl = f"pkg:oci/{last}{f'@{digest}' if digest else ''}{f'?tag={tag}' if tag else ''}"
    return {
        "type": "container",
        "name": f"{folder}{slash}{last}",
        "version": tag or digest,
        "purl": purl,
        "bom-ref": purl,
    }


def package_component(name: str, version: str, hashes: list[str]) -> dict[str, Any]:
    """Return the entry of a Python package; the hashes are those of its files, of which one is installed."""
    purl = f"pkg:pypi/{name}@{version}"
    digests = [{"alg": "SHA-256", "content": digest} for digest in hashes]
    return {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl, "hashes": digests}


def packages_of(root: pathlib.Path, lock: str, python: str) -> dict[str, dict[str, Any]]:
    """Return the entry of each package that a lock installs on Linux and x86-64, by name."""
    versions = locked_versions(root, lock, LINUX | {"python_version": python, "python_full_version": f"{python}.0"})
    packages = {}
    for locked in read_lock(root, lock):
        version = versions.get(locked.name)
        if version and locked.requirement.partition(" ;")[0].endswith(f"=={version}"):
            hashes = sorted(re.findall(r"--hash=sha256:(\w+)", locked.text))
            packages[locked.name] = package_component(locked.name, version, hashes)
    return packages


def describe(root: pathlib.Path, base: str = "", variant: str = "cpu") -> str:
    """Return the SBOM as JSON, the same bytes on each machine: the base and each package that the lock installs on it.

    Args:
        root: The project's folder.
        base: The base image; empty: the one in the Dockerfile.
        variant: cpu or gpu.

    Raises:
        EngineError: The Dockerfile names no base.
    """
    base = base or base_image(root)
    version = re.search(r"python:(\d+\.\d+)", base) or re.search(r"python:(\d+\.\d+)", base_image(root))
    python = version[1] if version else "3.12"
    packages = packages_of(root, LOCK, python)
    if variant == "gpu":
        del packages["tensorflow-cpu"]
        packages |= packages_of(root, GPU_LOCK, python)
    about = {"component": {"type": "application", "name": project_name(root), "bom-ref": project_name(root)}}
    everything = [container_component(base), *(packages[name] for name in sorted(packages))]
    return json.dumps({**FORMAT, "metadata": about, "components": everything}, indent=1)
