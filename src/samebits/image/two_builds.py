"""Builds the project's image twice and compares the two, by digest or file by file. Uses only the standard library."""

import pathlib
import tarfile
import tempfile
from dataclasses import dataclass, replace
from typing import Any

from samebits.image import build_context, oci_diff
from samebits.image.container import build, inspect, must
from samebits.image.engines import Engine, Recipe, build_command, capture, export_command

# Debian 12's Python 3.11.2 does not have the filter.
SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


@dataclass
class Build:
    """One of the two builds.

    Attributes:
        engine: The engine that builds.
        recipe: The image to build, with a name of its own.
        folder: An empty folder for the files of the image.
    """

    engine: Engine
    recipe: Recipe
    folder: pathlib.Path

    def run(self) -> str:
        """Build without a cache and return the image's digest. A docker that rewrites times only writes an archive."""
        if self.only_writes:
            must(build_command(self.engine, self.recipe, fresh=True, output=self.folder / "layout.tar"))
            return self.image().digest
        must(build_command(self.engine, self.recipe, fresh=True))
        return inspect(self.engine, self.recipe.tag)[0]

    @property
    def only_writes(self) -> bool:
        """Whether the engine writes an archive and stores no image."""
        return self.engine.name == "docker" and self.engine.can_rewrite_times

    def image(self) -> oci_diff.Image:
        """Return the image as files in the folder."""
        layout, archive = self.folder / "layout", self.folder / "layout.tar"
        if not layout.exists() and not archive.exists():
            must(export_command(self.engine, self.recipe.tag, layout))
        if archive.exists():
            with tarfile.open(archive) as opened:
                opened.extractall(layout, **SAFELY)  # noqa: S202  an engine on this machine wrote it
            archive.unlink()  # it is large
        return oci_diff.read_layout(layout)

    def remove(self) -> None:
        """Remove the image from the engine."""
        if not self.only_writes:
            capture([self.engine.name, "rmi", self.recipe.tag], timeout_s=None)


def verify(engine: Engine, recipe: Recipe, other: Engine) -> int:
    """Build twice without a cache, the second time from a copy with other times and permissions, and compare.

    buildah keeps no cache, so with buildah an existing up-to-date image counts as the first build. Two engines, and a
    docker that cannot rewrite times, store other times in their layers: then the files are compared, without times.

    Args:
        engine: The engine of the first build.
        recipe: The image to build.
        other: The engine of the second build; it may be the same.

    Returns:
        0: both are the same; 1: they differ, and every file that differs was printed.
    """
    whole = engine == other and engine.can_rewrite_times
    with tempfile.TemporaryDirectory() as scratch:
        copy, *folders = (pathlib.Path(scratch) / name for name in ("copy", "first", "second"))
        for folder in (copy, *folders):
            folder.mkdir()
        build_context.copy_context(recipe.root, copy)
        first = Build(engine, replace(recipe, tag=f"{recipe.tag}-verify-1"), folders[0])
        second = Build(other, replace(recipe, tag=f"{recipe.tag}-verify-2", root=copy), folders[1])
        if engine.name == "buildah":
            first.recipe = recipe
        try:
            digests = [build(engine, recipe) if first.recipe is recipe else first.run(), second.run()]
            lines: list[str] = []
            if not whole:
                images = first.image(), second.image()
                lines = oci_diff.file_differences(*images)
                digests = digests if lines else [oci_diff.files_digest(images[0].files)]
            elif digests[0] != digests[1]:
                lines = oci_diff.differences(first.image(), second.image()) or ["the manifests"]
        finally:
            for one in (first, second):
                if one.recipe is not recipe:
                    one.remove()
    if lines:
        print("\n".join(f"  {line}" for line in lines[:200]))
        print(f"THE IMAGES DIFFER in {len(lines)} places: {' and '.join(digests)}")
        return 1
    names = " and ".join(dict.fromkeys((engine.name, other.name)))
    of_what = "one digest" if whole else f"with {names}, one digest of all files without their times:"
    print(f"IMAGE VERIFIED: two builds, {of_what} {digests[0]}")
    return 0
