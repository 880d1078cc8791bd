#!/usr/bin/env python3
"""Checks the scripts inside workflow files with shellcheck, as GitHub runs them: workflow_scripts.py FILE..."""

import re
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML


def main(files):
    failed = False
    for file in files:
        for job, step in steps(YAML(typ="safe").load(Path(file))):
            # What GitHub puts in before bash sees it.
            script = re.sub(r"\$\{\{.*?\}\}", "expression", step["run"])
            done = subprocess.run(
                ["shellcheck", "--shell=bash", "-"], input="set -e\n" + script, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                print(f"{file}, job {job}, step {step.get('name', step['run'].splitlines()[0])}:\n{done.stdout}", file=sys.stderr)
                failed = True
    return failed


def steps(workflow):
    for job, content in workflow["jobs"].items():
        for step in content.get("steps", []):
            if "run" in step:
                yield job, step


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
