"""The CI files for users: schemas, pins, permissions, and the commands of each step, as far as they can run here."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import QUIET, ROOT, Result, copy_project

from samebits import cli

GITHUB, GITLAB, RENOVATE = ".github/workflows/ci.yml", ".gitlab-ci.yml", "renovate.json"
DEVCONTAINER = ".devcontainer/devcontainer.json"
SCHEMAS = [
    ("vendor.github-workflows", GITHUB, "runs-on: ubuntu-24.04", "runs-at: ubuntu-24.04"),
    ("custom.github-workflows-require-timeout", GITHUB, "timeout-minutes: 20", "name: lint"),
    ("vendor.gitlab-ci", GITLAB, "  script:\n    - make lint", "  scripts:\n    - make lint"),
    ("vendor.renovate", RENOVATE, '"enabledManagers": [', '"enabledManagers": [7, '),
]
JOBS = {"lint", "test", "container", "portable", "update", "required"}
# Commands that this file does not test, and where they are tested or why they cannot be.
ELSEWHERE = {
    "make lint": "checks the whole project; CI and every commit run it",
    "make test-all": "it runs this test",
    "make setup": "asks the package index",
    "make setup-dev": "same reason",
    ".venv/bin/python tools/lock.py": "same reason",
    ".venv/bin/samebits golden": "below, on the smoke experiment",
    ".venv/bin/samebits verify seed.root=56": "by test_readme, on the smoke experiment",
    "make image": "needs a container engine; test_container builds with the one at hand",
    "make docker-train SEED=56": "same reason",
    "PYTHONPATH=src python3 -m samebits image verify 2>&1 | tee image.txt": "same reason",
    "PYTHONPATH=src python3 -m samebits image run .venv/bin/samebits verify --quick": "same reason",
    "PYTHONPATH=src python3 -m samebits image run .venv/bin/samebits golden": "same reason",
    "docker buildx create --use": "needs a Docker daemon",
    "docker context create ci && docker buildx create --use ci": "same reason",
    "apk add --no-cache git make python3": "needs Alpine",
    "sudo apt-get update -qq && sudo apt-get install -y -qq qemu-user": "needs root and a Debian mirror",
    "apt-get update -qq && apt-get install -y -qq --no-install-recommends git make procps qemu-user util-linux":
        "same reason",
}  # fmt: skip


def load(path: str) -> dict[str, Any]:
    """Return a YAML file's content ("on" of a workflow is read as true)."""
    return dict(yaml.safe_load((ROOT / path).read_text()))


def validate(schema: str, path: pathlib.Path) -> Result:
    """Check a file with one of check-jsonschema's built-in schemas, without a network."""
    program = pathlib.Path(sys.executable).parent / "check-jsonschema"
    command = [str(program), "--builtin-schema", schema, str(path)]
    return subprocess.run(command, env=QUIET, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("schema", "name", "right", "wrong"), SCHEMAS)
def test_the_files_follow_their_schemas(tmp_path: pathlib.Path, schema: str, name: str, right: str, wrong: str) -> None:
    """Each file is valid, and invalid after one wrong word."""
    text = (ROOT / name).read_text()
    broken = tmp_path / pathlib.Path(name).name
    broken.write_text(text.replace(right, wrong, 1))
    valid = validate(schema, ROOT / name)

    assert 0 == valid.returncode, valid.stdout
    assert right in text
    assert 1 == validate(schema, broken).returncode


def audit(path: pathlib.Path) -> Result:
    """Look for risks in a workflow with zizmor, without a network."""
    program = pathlib.Path(sys.executable).parent / "zizmor"
    command = [str(program), "--offline", "--no-progress", str(path)]
    return subprocess.run(command, env=QUIET, capture_output=True, text=True, check=False)


def test_no_workflow_has_a_known_risk(tmp_path: pathlib.Path) -> None:
    """Zizmor finds nothing; a title of an issue in a command, which may be anybody's code, is found."""
    broken = tmp_path / ".github" / "workflows" / "ci.yml"
    broken.parent.mkdir(parents=True)
    broken.write_text((ROOT / GITHUB).read_text().replace("make lint", "echo ${{ github.event.issue.title }}"))
    good, bad = audit(ROOT / GITHUB), audit(broken)

    assert 0 == good.returncode, good.stdout
    assert bad.returncode != 0
    assert "template-injection" in bad.stdout


def loose_references(text: str) -> list[str]:
    """Return the unpinned actions and images of a CI file, and the registries named by host."""
    actions = re.findall(r"uses: *(.*)", text)
    loose = [action for action in actions if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)]
    images = re.findall(r"^ *(?:- |image: |- name: )((?:python|docker|[\w.-]+\.\w+/)\S*)$", text, re.MULTILINE)
    return loose + [image for image in images if not re.fullmatch(r"\w+:[\w.-]+@sha256:[0-9a-f]{64}", image)]


@pytest.mark.parametrize(
    ("line", "is_pinned"),
    [
        ("      - uses: actions/checkout@v5", False),
        ("      - uses: actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8", False),
        ("      - uses: actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0", True),
        ("  image: python:3.12-slim-bookworm", False),
        ("    - name: docker:28-dind", False),
        (f"  image: registry.example.org/python:3.12@sha256:{'0' * 64}", False),
        (f"          - python:3.12-slim-bookworm@sha256:{'0' * 64}", True),
    ],
)
def test_a_loose_reference_is_found(line: str, *, is_pinned: bool) -> None:
    """A tag without a commit, a commit without its version, and a registry's host are found."""
    assert is_pinned == (loose_references(line) == [])


def test_every_action_and_image_is_pinned() -> None:
    """Actions are pinned to a commit with the version in a comment, images to a digest; there are no addresses."""
    for name in (GITHUB, GITLAB, RENOVATE, DEVCONTAINER):
        assert [] == loose_references((ROOT / name).read_text())
        assert "://" not in (ROOT / name).read_text()
    dockerfile = (ROOT / "Dockerfile").read_text()

    assert load(GITLAB)["default"]["image"] in dockerfile


def test_the_workflow_may_read_and_nothing_else() -> None:
    """Jobs only read, no step keeps the token, no secret is used, and each branch has one run at a time."""
    workflow = load(GITHUB)
    steps = [each for job in workflow["jobs"].values() for each in job["steps"]]
    checkouts = [each for each in steps if "checkout" in each.get("uses", "")]

    assert {"contents": "read"} == workflow["permissions"]
    assert not [name for name, job in workflow["jobs"].items() if "permissions" in job]
    assert {False} == {step["with"]["persist-credentials"] for step in checkouts}
    assert "secrets." not in (ROOT / GITHUB).read_text()
    assert "${{ github.workflow }}-${{ github.ref }}" == workflow["concurrency"]["group"]


def test_both_have_the_same_jobs_and_the_last_needs_all() -> None:
    """The jobs for GitHub and GitLab have the same names and run the same commands."""
    github, gitlab = load(GITHUB)["jobs"], load(GITLAB)
    needed = {need if isinstance(need, str) else need["job"] for need in gitlab["required"]["needs"]}

    assert set(github) == JOBS
    assert set(gitlab) - {"stages", "workflow", "default", "variables"} == JOBS
    assert set(github["required"]["needs"]) == needed == JOBS - {"required"}
    for name in JOBS - {"required"}:
        assert targets(github_commands(github[name])) == targets(gitlab[name]["script"]), name


def github_commands(job: dict[str, Any]) -> list[str]:
    """Return the commands of a job of the workflow."""
    return [step["run"] for step in job["steps"] if "run" in step]


def targets(commands: list[str]) -> list[str]:
    """Return those of the commands that belong to the project, in order."""
    ours = re.compile(r"^(?:make |\.venv/bin/|PYTHONPATH=src ).*?(?= 2>&1|$)", re.MULTILINE)
    return [found for command in commands for found in ours.findall(command)]


def all_commands() -> Iterator[str]:
    """Yield every command of both files, unchanged."""
    for job in load(GITHUB)["jobs"].values():
        yield from github_commands(job)
    gitlab = load(GITLAB)
    for job in (gitlab["default"], *(gitlab[name] for name in JOBS)):
        yield from [*job.get("before_script", []), *job.get("script", [])]


def run_here() -> set[str]:
    """Return the commands that the tests below run."""
    here = {command for command in all_commands() if command not in ELSEWHERE}
    return here - {"set -o pipefail", 'echo "everything required has passed"'}


def test_every_step_is_run_here_or_said_to_be_elsewhere() -> None:
    """Every command in the files is in a test, or in a list with the reason; the list has no other commands."""
    ours = {step(name) for name in ("The CPU", "Golden", "The outcome", "The lock", "The image", "Everything")}

    assert run_here() == ours | {"grep -m1 'model name' /proc/cpuinfo"}
    assert set(ELSEWHERE) <= set(all_commands())


def test_every_target_and_command_exists() -> None:
    """Commands that are not run here are targets of the Makefile or valid `samebits` command lines."""
    defined = set(re.findall(r"^([a-z-]+):.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wanted = {word for command in all_commands() for word in re.findall(r"^make ([a-z-]+)", command, re.MULTILINE)}
    lines = [line for command in all_commands() for line in re.findall(r"samebits (.*?)(?= 2>&1|$)", command)]
    understood = {cli.find_command(line.split()).name for line in lines if not line.startswith("golden came")}

    assert wanted <= defined
    assert {"setup", "setup-dev", "lint", "test-all", "image", "docker-train"} == wanted
    assert {"golden", "verify", "image run", "image verify"} == understood
    for line in lines:
        command = cli.find_command(line.split())
        command.parse(line.split()[len(command.name.split()) :])


# --- the steps, as they stand there ---


def step(start: str) -> str:
    """Return the command of the workflow's step whose name starts with a text."""
    steps = [each for job in load(GITHUB)["jobs"].values() for each in job["steps"]]
    (found,) = [each["run"] for each in steps if each.get("name", "").startswith(start)]
    return str(found)


def run_step(command: str, folder: pathlib.Path, **environment: str) -> Result:
    """Run a step's command like GitHub: in bash, stopping at the first error, also inside a pipe."""
    variables = QUIET | {"GITHUB_STEP_SUMMARY": str(folder / "summary.md")} | environment
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command]
    return subprocess.run(shell, cwd=folder, env=variables, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a copy of the project under git, with this environment and one golden file."""
    root = copy_project(tmp_path_factory.mktemp("ci"))
    shutil.copy(ROOT / "Makefile", root)
    (root / "golden").mkdir()
    shutil.copy(ROOT / "golden" / "smoke.json", root / "golden")
    (root / ".venv" / "bin").mkdir(parents=True)
    script = root / ".venv" / "bin" / "samebits"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m samebits "$@"\n')
    script.chmod(0o755)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "start"]):
        subprocess.run(["git", *identity, *words], cwd=root, check=True)
    return root


def update(root: pathlib.Path) -> tuple[Result, Result]:
    """Run the two steps of the job `update` that check the digests, on the smoke experiment."""
    (root / "summary.md").unlink(missing_ok=True)
    shutil.rmtree(root / "runs", ignore_errors=True)  # if a run with the old digest existed, explain would train too
    golden = run_step(step("Golden"), root, PYTHONPATH=str(root / "src"))
    return golden, run_step(step("The outcome"), root)


@pytest.mark.full
def test_an_update_that_keeps_the_digests_is_reported(checkout: pathlib.Path) -> None:
    """The job passes, and its summary says that the digests are equal to the golden ones."""
    golden, outcome = update(checkout)
    summary = (checkout / "summary.md").read_text()

    assert (0, 0) == (golden.returncode, outcome.returncode), golden.stdout + golden.stderr
    assert re.search(r"^    GOLDEN smoke: seed 56, weights \w{12}…", summary, re.MULTILINE)
    assert "came to no result" not in summary


@pytest.mark.full
def test_an_update_that_changes_the_digests_is_reported_and_red(checkout: pathlib.Path) -> None:
    """The step fails despite the pipe, and the summary names the changed input and the first digests."""
    path = checkout / "conf" / "experiment" / "smoke.yaml"
    before = path.read_text()
    path.write_text(before.replace("learning_rate: 0.01", "learning_rate: 0.02"))
    golden, outcome = update(checkout)
    path.write_text(before)
    summary = (checkout / "summary.md").read_text()

    assert (1, 0) == (golden.returncode, outcome.returncode)
    assert "changed input: decided_by.config.training.learning_rate: golden 0.01, now 0.02" in summary
    assert "NOT GOLDEN smoke: " in summary
    assert re.search(r"^      epochs\.1\.bits\.loss: golden 0x1\.\w+p-1, now 0x1\.\w+p-1$", summary, re.MULTILINE)


def test_an_update_without_a_result_is_reported(tmp_path: pathlib.Path) -> None:
    """If golden never ran, the summary says so."""
    done = run_step(step("The outcome"), tmp_path)

    assert 0 == done.returncode
    assert "samebits golden came to no result: see the log" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(("said", "expected"), [
    ("+ docker build\nIMAGE VERIFIED: two builds, one digest sha256:12\n", "    IMAGE VERIFIED: two builds, one"),
    ("  layer 4 /etc/x: different content\nTHE IMAGES DIFFER in 1 places: a and b\n", "      layer 4 /etc/x: diff"),
    ("+ docker build\nEngineError: docker build: expected exit code 0\n", "    no result: see the log"),
])  # fmt: skip
def test_two_builds_of_the_image_are_reported(tmp_path: pathlib.Path, said: str, expected: str) -> None:
    """The summary has the outcome and each file that differs, or says that there is no outcome."""
    (tmp_path / "image.txt").write_text(said)
    done = run_step(step("The image"), tmp_path)

    assert 0 == done.returncode
    assert expected in (tmp_path / "summary.md").read_text()


@pytest.mark.full
def test_a_lock_that_was_not_committed_is_red(checkout: pathlib.Path) -> None:
    """A lock that was only updated inside the job, and not committed, fails."""
    path = checkout / "requirements.lock"
    before = path.read_text()
    green = run_step(step("The lock"), checkout)
    path.write_text(before.replace("absl-py==", "absl-py==9."))
    red = run_step(step("The lock"), checkout)
    path.write_text(before)

    assert (0, 1) == (green.returncode, red.returncode)
    assert "requirements.lock" in red.stdout


@pytest.mark.parametrize(
    ("results", "updated", "code"),
    [
        ("success success success success", "skipped", 0),
        ("success success success success", "success", 0),
        ("success success success success", "failure", 1),
        ("success failure success success", "skipped", 1),
        ("success success skipped success", "skipped", 1),
        ("success success success cancelled", "success", 1),
    ],
)
def test_the_last_job_requires_all(tmp_path: pathlib.Path, results: str, updated: str, code: int) -> None:
    """Every job must succeed; only the check of an update may be skipped."""
    assert code == run_step(step("Everything"), tmp_path, RESULTS=results, UPDATE=updated).returncode


def test_the_cpu_is_said(tmp_path: pathlib.Path) -> None:
    """The summary of a portable job shows the CPU's name."""
    done = run_step(step("The CPU"), tmp_path)

    assert 0 == done.returncode
    assert (tmp_path / "summary.md").read_text().startswith("model name")


# --- the rest ---


def test_renovate_keeps_lock_base_and_actions() -> None:
    """Every enabled manager has its files here, and all packages that change bits come in one update."""
    config = json.loads((ROOT / RENOVATE).read_text())
    files = {"pep621": "pyproject.toml", "dockerfile": "Dockerfile", "github-actions": GITHUB, "gitlabci": GITLAB}
    arithmetic = next(rule for rule in config["packageRules"] if rule.get("groupName") == "arithmetic")
    exact = re.findall(r'"([\w-]+)==', (ROOT / "pyproject.toml").read_text().partition("[dependency-groups]")[0])

    assert set(files) == set(config["enabledManagers"])
    assert all((ROOT / path).is_file() for path in files.values())
    assert {"tensorflow", "tensorflow-cpu", "keras", "numpy"} == set(arithmetic["matchPackageNames"])
    assert set(arithmetic["matchPackageNames"]) <= set(exact)
    assert config["branchPrefix"] in (ROOT / GITHUB).read_text()
    assert config["branchPrefix"].rstrip("/") in load(GITLAB)["update"]["rules"][0]["if"]


def test_the_devcontainer_is_the_image() -> None:
    """The devcontainer builds the project's Dockerfile, and uses the image's user and folders."""
    config = json.loads((ROOT / DEVCONTAINER).read_text())
    folder = ROOT / ".devcontainer"
    dockerfile = (folder / config["build"]["dockerfile"]).resolve()
    text = dockerfile.read_text()

    assert ROOT / "Dockerfile" == dockerfile
    assert ROOT == (folder / config["build"]["context"]).resolve()
    assert f"{config['remoteUser']}:x:10001" in text
    assert f"WORKDIR {config['workspaceFolder']}\n" in text
    assert "ln -s /opt/venv .venv" in config["postCreateCommand"]
    assert "COPY --from=packages /opt/venv /opt/venv" in text
