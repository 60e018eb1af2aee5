"""Reading the lock, also before anything is installed."""

import pathlib
import subprocess
import sys

from conftest import ROOT

from samebits.runtime.lockfile import exact_version, locked_versions, normalise, read_lock

LOCK = """# a comment
A_b.c==1.0 ; python_version < '3.0' \\
    --hash=sha256:01 \\
    --hash=sha256:02
numpy==2.4.6 \\
    --hash=sha256:03

    # via nothing
open>=1
one-line==3 --hash=sha256:04
"""


def test_every_package_is_read_with_line_and_hashes(tmp_path: pathlib.Path) -> None:
    """Packages are read correctly with comments, continued lines and hashes on the same line."""
    (tmp_path / "requirements.lock").write_text(LOCK)
    found = list(read_lock(tmp_path))

    assert [("a-b-c", 2), ("numpy", 5), ("open", 9), ("one-line", 10)] == [(one.name, one.line) for one in found]
    assert [True, True, False, True] == [one.has_hash for one in found]
    assert "numpy==2.4.6" == found[1].requirement
    assert LOCK.partition("\n")[2] == "".join(one.text for one in found)


def test_the_versions_are_those_of_this_python(tmp_path: pathlib.Path) -> None:
    """Packages with a marker that is false, or without an exact version, are left out."""
    (tmp_path / "requirements.lock").write_text(LOCK)

    assert {"numpy": "2.4.6", "one-line": "3"} == locked_versions(tmp_path)


def test_what_names_no_exact_version_has_none() -> None:
    """Ranges, wildcards and invalid requirements have no exact version."""
    assert ["1.0", None, None, None] == [exact_version(words) for words in ("a==1.0", "a>=1", "a==1.*", "=?")]
    assert "a-b-c" == normalise("A_b..c")


def test_the_lock_is_read_without_any_package() -> None:
    """Reading the lock needs only the standard library."""
    code = f"""import pathlib, sys
sys.path.insert(0, {str(ROOT / "src")!r})
from samebits.runtime.lockfile import read_lock
print(sum(locked.has_hash for locked in read_lock(pathlib.Path({str(ROOT)!r}))))"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)

    assert "" == done.stderr
    assert len(list(read_lock(ROOT))) == int(done.stdout)
