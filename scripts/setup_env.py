"""Build `.venv` from `requirements.lock`, once; a second call only checks that it is current.

Usage: python3 scripts/setup_env.py [VENV]      (default: .venv; `make setup` calls this)

Every package is installed by its SHA-256 hash. The two that are built from source are built with the
setuptools and wheel of the lock, so that nothing unpinned is fetched. Only the standard library is used.
"""

import hashlib
import pathlib
import shutil
import subprocess
import sys

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = pathlib.Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
BUILD_TOOLS = ("packaging", "setuptools", "wheel")


def fail(message, code=2):
    """Print one error and stop: 2 for wrong usage, 1 for a failed installation."""
    sys.stderr.write("error: " + message + "\n")
    sys.exit(code)


def check_interpreter():
    """Refuse a Python that the lock does not serve, or one without venv."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        fail(
            "Python %d.%d to %d.%d expected, received %d.%d (%s); fix: make train PYTHON=/path/to/python3.12"
            % (OLDEST + NEWEST + sys.version_info[:2] + (sys.executable,))
        )
    try:
        import ensurepip  # noqa: F401  a system Python may come without it
        import venv  # noqa: F401
    except ImportError:
        fail(
            "the venv module with ensurepip expected, not found in %s; fix: install it "
            "(Debian and Ubuntu: apt-get install python3-venv)" % sys.executable
        )


def wanted_state():
    """Return what the environment must have been built from: the lock's digest and the Python."""
    lock = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    return "lock %s\npython %d.%d.%d\nsource %s\n" % ((lock,) + sys.version_info[:3] + (ROOT / "src",))


def locked_requirements(names):
    """Return the blocks (requirement and hashes) of some packages of the lock."""
    blocks, block = [], []
    for line in LOCK.read_text().splitlines(True):
        if not line[0].isspace():
            block = []
            blocks.append(block)
        block.append(line)
    return "".join("".join(b) for b in blocks if b[0].split("==")[0] in names)


def pip(venv, *arguments):
    """Run the environment's pip; stop with its output when it fails."""
    python = venv / "bin" / "python"
    command = [str(python), "-m", "pip", "-qq", "--disable-pip-version-check", "--no-input", *arguments]
    if subprocess.call(command) != 0:
        fail("pip could not install the pinned packages (its reason is above); fix that and run make again", code=1)


def build(venv, state):
    """Make the environment from nothing and stamp it, last of all, with what it was built from."""
    packages = sum("==" in line for line in LOCK.read_text().splitlines())
    print("setting up %s: %d pinned packages, once; this takes a minute or two" % (venv, packages), flush=True)
    if (venv / "pyvenv.cfg").exists():
        shutil.rmtree(venv)
    subprocess.check_call([sys.executable, "-m", "venv", str(venv)])
    tools = venv / "build-tools.txt"
    tools.write_text(locked_requirements(BUILD_TOOLS))
    pip(venv, "install", "--require-hashes", "-r", str(tools))
    pip(venv, "install", "--require-hashes", "--no-build-isolation", "--no-deps", "-r", str(LOCK))
    (site_packages,) = (venv / "lib").glob("python3.*/site-packages")
    (site_packages / "samebits.pth").write_text("%s\n" % (ROOT / "src"))
    stamp = venv / "samebits-state.partial"
    stamp.write_text(state)
    stamp.rename(venv / "samebits-state")


def main():
    """Build or check; two calls at once wait for each other."""
    check_interpreter()
    import fcntl  # after the check: it is missing on Windows, where a clear error above comes first

    venv = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / ".venv").resolve()
    if venv.exists() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").exists():
        fail("a virtual environment or nothing expected at %s, received another folder; fix: move it away" % venv)
    state = wanted_state()
    stamp = venv / "samebits-state"
    if stamp.exists() and stamp.read_text() == state:
        return  # nothing is written: in a container the folder may be read-only
    lock_path = venv.with_name(venv.name + ".lock")
    try:
        stream = open(lock_path, "w")
    except OSError as error:
        fail("a writable project folder expected: %s; fix: copy the project to one" % error)
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text() == state):
            build(venv, state)


if __name__ == "__main__":
    print(__doc__) if sys.argv[1:2] == ["--help"] else main()
