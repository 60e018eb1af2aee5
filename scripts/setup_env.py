"""Create `.venv` from the lock files. A second call only checks that it is up to date.

Usage: python3 scripts/setup_env.py [--dev] [VENV]      (default: .venv; `make setup` calls this)

Installs requirements.lock, the packages for training. --dev adds requirements-dev.lock, the test and lint tools. Every
package is checked against its SHA-256 hash. pip installs uv, and uv installs the rest. If uv is not available or fails,
pip installs everything. Packages without a wheel are built with the locked setuptools and wheel, so that nothing
unpinned is downloaded. In the project's image, which names its environment in SAMEBITS_PACKAGES, the packages of that
one are used, without a network. Uses only the standard library.
"""

import ast
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = pathlib.Path(__file__).resolve().parent.parent
TRAINING, DEV = ROOT / "requirements.lock", ROOT / "requirements-dev.lock"
BUILD_TOOLS = ("packaging", "setuptools", "wheel")
OPTIONS = ["install", "--require-hashes", "--no-deps"]
# pip's settings and uv's variables for them. In UV_FIND_LINKS, commas separate the values.
UV_VARIABLES = {
    "index-url": ("UV_DEFAULT_INDEX",),
    "extra-index-url": ("UV_INDEX",),
    "no-index": ("UV_NO_INDEX",),
    "find-links": ("UV_FIND_LINKS",),
    "trusted-host": ("UV_INSECURE_HOST",),
    "cert": ("SSL_CERT_FILE",),
    "client-cert": ("SSL_CLIENT_CERT",),
    "proxy": ("HTTP_PROXY", "HTTPS_PROXY"),
    "timeout": ("UV_HTTP_TIMEOUT",),
    "default-timeout": ("UV_HTTP_TIMEOUT",),
    "no-cache-dir": ("UV_NO_CACHE",),
}
USES = b"packages "  # a line of the stamp: the environment whose packages this one uses
SHIM = """#!/bin/sh
exec "$(dirname "$0")/python" -P -m samebits "$@"
"""


def fail(message, code=2):
    """Print an error and exit: code 2 for wrong usage, 1 for a failed installation."""
    sys.stderr.write("error: " + message + "\n")
    sys.exit(code)


def check_interpreter():
    """Refuse a Python version that the locks do not support, or a Python without venv."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        fail(
            "Python %d.%d to %d.%d expected, received %d.%d (%s); fix: make train PYTHON=/path/to/python3.12"
            % (OLDEST + NEWEST + sys.version_info[:2] + (sys.executable,))
        )
    try:
        import ensurepip  # noqa: F401  missing in some system Pythons
        import venv  # noqa: F401
    except ImportError:
        fail(
            "the venv module with ensurepip expected, not found in %s; fix: install it "
            "(Debian and Ubuntu: apt-get install python3-venv)" % sys.executable
        )


def wanted_state(dev):
    """Return the lines that the environment's stamp must have: locks, Python version, and project folder."""
    lines = [b"lock " + hashlib.sha256(TRAINING.read_bytes()).hexdigest().encode()]
    lines += [b"python %d.%d.%d" % sys.version_info[:3], b"project " + os.fsencode(ROOT)]
    if dev:
        lines.append(b"dev " + hashlib.sha256(DEV.read_bytes()).hexdigest().encode())
    return lines


def read_stamp(venv):
    """Return the stamp's lines, which say what the environment was built from; empty if it is missing or incomplete."""
    stamp = venv / "samebits-state"
    return stamp.read_bytes().splitlines() if stamp.exists() else []


def write_stamp(venv, state):
    """Write the stamp in one step (atomically)."""
    partial = venv / "samebits-state.partial"
    partial.write_bytes(b"\n".join(state) + b"\n")
    partial.replace(venv / "samebits-state")


def is_current(venv, state):
    """Return whether everything wanted is installed. More may be installed.

    An environment that uses the packages of another one is as current as that one.
    """
    stamp = read_stamp(venv)
    others = [pathlib.Path(os.fsdecode(line[len(USES) :])) for line in stamp if line.startswith(USES)]
    return set(state) <= set(stamp) and all(is_current(other, without_place(state)) for other in others)


def without_place(state):
    """Return the lines of a state that do not depend on the project's folder."""
    return [line for line in state if not line.startswith(b"project ")]


def locked(lock, accept):
    """Return the blocks (requirement and hashes) of the accepted packages in a lock."""
    blocks = re.split(r"^(?=[a-z0-9])", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [block for block in blocks if "==" in block and accept(block.split("==")[0])]


def run(command, environment=None):
    """Run an installer; returns the reason of a failure, or an empty string."""
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    lines = [line.strip() for line in done.stdout.decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if line.lower().startswith("error")] or [-3]
    return "" if done.returncode == 0 else " ".join(lines[errors[0] :][:6]) or "exit code %d" % done.returncode


def pip(venv, *arguments):
    """Run the environment's pip; returns the reason of a failure, or an empty string."""
    command = [str(venv / "bin" / "python"), "-m", "pip", "-qq", "--disable-pip-version-check", "--no-input"]
    return run(command + list(arguments))


def pip_settings(venv):
    """Return name -> pip setting of this machine. Variables override `install` settings, which override global ones."""
    command = [str(venv / "bin" / "python"), "-m", "pip", "config", "list"]
    listed = subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout.decode("utf-8", "replace")
    found = re.findall(r"^(global|install|:env:)\.([\w-]+)=(.*)$", listed, re.MULTILINE)
    order = ("global", "install", ":env:")
    settings = {}
    for _, name, value in sorted(found, key=lambda one: order.index(one[0])):
        settings[name] = str(ast.literal_eval(value))
    return settings


def uv_environment(settings, environment):
    """Return the variables that make uv use pip's indexes, proxy and certificates. Variables set for uv win.

    Like pip, uv searches all indexes, because the hash decides what is installed. It trusts the machine's certificates.
    """
    values = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_SYSTEM_CERTS": "1"}
    for name, value in settings.items():
        words = value.split()
        if words and not (name.startswith("no-") and value.lower() in ("0", "false", "no", "off")):
            for variable in UV_VARIABLES.get(name, ()):
                values[variable] = ("," if name == "find-links" else " ").join(words)
    own = {name: value for name, value in environment.items() if name.startswith("UV_")}
    return {**environment, **values, **own}


def uv(venv, *arguments):
    """Run the environment's uv with pip's settings; returns the reason of a failure, or an empty string.

    uv links files from its cache, or copies them if the cache is on another file system.
    """
    program = venv / "bin" / "uv"
    if not program.exists():
        return "uv could not be installed"
    return run([str(program), "-q", "pip"] + list(arguments), uv_environment(pip_settings(venv), os.environ))


def install(venv, lock):
    """Install the packages of a lock into the environment, with uv or else with pip; exit if both fail."""
    options = OPTIONS + ["--no-build-isolation"]
    python = str(venv / "bin" / "python")
    reason = uv(venv, *options, "--python", python, "-r", str(lock))
    if reason:
        print("uv failed (%s); pip installs the packages instead, which takes longer" % reason, flush=True)
        listed = venv / "without-uv.txt"
        listed.write_text("".join(locked(lock, "uv".__ne__)), encoding="utf-8")
        must(pip(venv, *options, "-r", str(listed)))
        listed.unlink()


def must(reason):
    """Exit if an installer failed."""
    if reason:
        fail("the locked packages could not be installed: %s; fix this and run the command again" % reason, code=1)


def write_import_path(venv):
    """Write a .pth file, so that the environment's Python finds the packages in harness/ (in a copy) and in src/.

    Python reads .pth files in the locale's encoding, so the file is ASCII and its paths are relative.
    """
    (site_packages,) = (venv / "lib").glob("python3.*/site-packages")
    lines = []
    for folder in (ROOT / "harness", ROOT / "src"):  # in an image they are copied later, so they may not exist yet
        place = ascii(os.path.relpath(folder, os.path.realpath(site_packages)))
        lines.append("import os, sys; sys.path.append(os.path.realpath(os.path.join(sitedir, %s)))\n" % place)
    (site_packages / "samebits.pth").write_text("".join(lines), encoding="ascii")


def write_shim(venv):
    """Write the command `samebits` into the environment's bin folder."""
    path = venv / "bin" / "samebits"
    path.write_text(SHIM, encoding="ascii")
    path.chmod(0o755)


def create(venv, *options):
    """Create a new environment without packages."""
    if (venv / "pyvenv.cfg").exists():
        shutil.rmtree(venv)
    subprocess.check_call([sys.executable, "-m", "venv", *options, str(venv)])


def install_tools(venv):
    """Install what installs the rest, by pip: uv if it is available, and the tools for packages without a wheel."""
    listed = venv / "tools.txt"
    for tools in (BUILD_TOOLS + ("uv",), BUILD_TOOLS):
        listed.write_text("".join(locked(TRAINING, tools.__contains__)), encoding="utf-8")
        reason = pip(venv, *OPTIONS, "--no-compile", "--force-reinstall", "-r", str(listed))
        if not reason:
            break
    must(reason)
    listed.unlink()


def build(venv):
    """Create a new environment with the packages for training."""
    create(venv)
    install_tools(venv)
    install(venv, TRAINING)
    write_import_path(venv)
    write_shim(venv)


def use_packages_of_image(venv, state):
    """Create an environment that uses the image's packages; returns False if the image has not all that is wanted."""
    prepared = pathlib.Path(os.environ.get("SAMEBITS_PACKAGES", venv)).resolve()
    if prepared == venv or not is_current(prepared, without_place(state)):
        return False
    print("setting up %s with the packages of %s" % (venv, prepared), flush=True)
    create(venv, "--without-pip")
    (source,), (target,) = ((each / "lib").glob("python3.*/site-packages") for each in (prepared, venv))
    # All but the path to the image's own code.
    (target / "packages.pth").write_text("import sys; sys.path.append(%s)\n" % ascii(str(source)), encoding="ascii")
    write_import_path(venv)
    write_shim(venv)
    write_stamp(venv, state + [USES + os.fsencode(prepared)])
    return True


def update(venv, state):
    """Install what is missing, or create a new environment if its stamp differs. Write the stamp last."""
    training, have = state[:3], read_stamp(venv)
    other_dev = len(state) > len(training) and any(line.startswith(b"dev ") for line in have)
    of_image = any(line.startswith(USES) for line in have)  # it has no installer, and the image lacks something
    count = len(locked(TRAINING, bool))
    if not is_current(venv, training) or other_dev or of_image:
        print("setting up %s: %d locked packages, only once; takes about half a minute" % (venv, count), flush=True)
        build(venv)
        write_stamp(venv, training)
    if not is_current(venv, state):
        count = len(locked(DEV, bool))
        print("adding the test and lint tools to %s: %d locked packages, only once" % (venv, count), flush=True)
        if not (venv / "bin" / "uv").exists():  # as in the image
            install_tools(venv)
        install(venv, DEV)
        write_stamp(venv, state)


def main(arguments):
    """Create or check the environment. Of two calls at the same time, one waits for the other."""
    check_interpreter()
    import fcntl  # after the check, because Windows does not have it and must get the clear error first

    dev = "--dev" in arguments
    places = [word for word in arguments if word != "--dev"]
    venv = pathlib.Path(places[0] if places else ROOT / ".venv").resolve()
    if venv.exists() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").exists():
        fail("a virtual environment or nothing expected at %s, received another folder; fix: move it away" % venv)
    state = wanted_state(dev)
    if is_current(venv, state):
        return  # write nothing: in a container the folder may be read-only
    lock_path = venv.with_name(venv.name + ".lock")
    try:
        stream = open(lock_path, "w")
    except OSError as error:
        fail("a writable project folder expected: %s; fix: copy the project to one" % error)
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if not is_current(venv, state) and not use_packages_of_image(venv, state):
            update(venv, state)


if __name__ == "__main__":
    print(__doc__) if sys.argv[1:2] == ["--help"] else main(sys.argv[1:])
