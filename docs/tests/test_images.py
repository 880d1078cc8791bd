"""Every list of images that the docs make of Pods has those of all places where a Pod may name one.

The API server of the other tests is too old to keep image volumes, so kubectl gives recorded Pods here.
"""

import json
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

from markdown import blocks, written

OURS, THEIRS = "registry.example.com/acme/", "quay.io/team/"
PLACES = ("container", "init", "ephemeral", "volume")


def pods():
    """For each place and each registry a Pod that names an image of it there, and another everywhere else."""
    for place in PLACES:
        for registry, owner in ((OURS, "ours"), (THEIRS, "theirs")):
            image, name = f"{registry}{place}:1", f"{place}-{owner}"
            other = (THEIRS if registry == OURS else OURS) + "other:1"
            spec = {"containers": [{"image": image if place == "container" else other}]}
            if place in ("init", "ephemeral"):
                spec[f"{place}Containers"] = [{"image": image}]
            if place == "volume":
                spec["volumes"] = [{"name": "a", "emptyDir": {}}, {"name": "b", "image": {"reference": image}}]
            yield {"metadata": {"namespace": "shop", "name": name}, "spec": spec}


def programs():
    """The blocks that list the images of Pods."""
    for name in written():
        for block in blocks(name):
            if "kubectl get pods" in block.text and re.search(r"jq .*", block.text) and "image" in block.text:
                yield block


class Images(unittest.TestCase):
    def run_block(self, block):
        with tempfile.TemporaryDirectory() as folder:
            kubectl = Path(folder, "kubectl")
            Path(folder, "pods.json").write_text(json.dumps({"items": list(pods())}))
            kubectl.write_text(f"#!/bin/sh\ncat '{folder}/pods.json'\n")
            kubectl.chmod(0o755)
            command = ["bash", "-euo", "pipefail", "-c", block.text]
            env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
            done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True, timeout=60)
            return done.stdout + "".join(path.read_text() for path in Path(folder).glob("*.txt"))

    def test_they_have_all_places(self):
        found = {}
        for block in programs():
            printed = self.run_block(block)
            found.setdefault(block.file, []).append(printed)
            for place in PLACES:
                with self.subTest(f"{block}: {place}"):
                    # Those that leave out a registry name Pods, or have the images of the other.
                    self.assertRegex(printed, rf"{THEIRS}{place}:1|shop/{place}-ours")
        self.assertEqual({name: len(texts) for name, texts in found.items()},
                         {"docs/air-gapped.md": 1, "docs/changing-the-backup.md": 1, "docs/disaster-recovery.md": 2,
                          "docs/uninstall.md": 1})

    def test_uninstalling_waits_for_every_pod_that_names_a_copy(self):
        [block] = [block for block in programs() if block.file == "docs/uninstall.md"]
        named = {f"shop/{pod['metadata']['name']}" for pod in pods() if OURS in json.dumps(pod)}
        self.assertEqual(set(self.run_block(block).split()), named)
