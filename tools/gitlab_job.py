"""Run a job of .gitlab-ci.yml on this machine, in its image or another one: tools/gitlab_job.py JOB IMAGE FOLDER.

As GitLab does: the checkout in FOLDER is mounted at /builds, and before_script and script run in one shell, with the
job's variables. The certificates that PIP_CERT names are mounted too. Needs docker.
"""

import argparse
import os
import pathlib
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLACE, CERTIFICATES = "/builds/checkout", "/certificates.pem"


def main() -> int:
    """Run the job; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("job", "image", "folder"):
        parser.add_argument(name)
    given = parser.parse_args()
    ci = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text(encoding="utf-8"))
    job = ci[given.job]
    variables = {**ci["variables"], **job.get("variables", {}), "GIT_CONFIG_COUNT": "1"}
    variables |= {"GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    mounts = [f"--volume={pathlib.Path(given.folder).resolve()}:{PLACE}", f"--workdir={PLACE}"]
    if "PIP_CERT" in os.environ:
        mounts.append(f"--volume={os.environ['PIP_CERT']}:{CERTIFICATES}:ro")
        variables |= {"PIP_CERT": CERTIFICATES, "SSL_CERT_FILE": CERTIFICATES}
    words = [f"--env={name}={value}" for name, value in variables.items()]
    lines = ["set -ex", *job.get("before_script", ci["default"]["before_script"]), *job["script"]]
    command = ["docker", "run", "--rm", "--interactive", *mounts, *words, given.image, "sh"]
    return subprocess.run(command, input="\n".join(lines), text=True, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
