"""The archive is what the Dockerfile says, and the same bytes each time."""

import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

from support import ROOT, run

sys.path.insert(0, str(ROOT / "publish"))
import oci  # noqa: E402

ARGUMENTS = {"VERSION": "1.2.3", "REVISION": "0" * 40, "CREATED": "2026-01-02T03:04:05+00:00"}
DOCKERFILE = (ROOT / "Dockerfile").read_text()


class Archive(unittest.TestCase):
    def setUp(self):
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        (self.root / "etc/ssl").mkdir(parents=True)
        (self.root / "mirror-sidecar").write_bytes(b"program")
        (self.root / "mirror-sidecar").chmod(0o755)
        (self.root / "etc/ssl/ca.crt").write_bytes(b"authority")

    def build(self, dockerfile=DOCKERFILE):
        return oci.build("arm64", self.root, dockerfile, ARGUMENTS, 1767323045)

    def test_the_same_input_gives_the_same_bytes(self):
        first = self.build()
        # Times, owners' rights and the order of creation are those of the machine.
        (self.root / "mirror-sidecar").chmod(0o700)
        os.utime(self.root / "mirror-sidecar", (1, 1))
        shutil.move(self.root / "etc", self.root / "moved")
        shutil.move(self.root / "moved", self.root / "etc")
        self.assertEqual(first, self.build())
        (self.root / "mirror-sidecar").write_bytes(b"another")
        self.assertNotEqual(first, self.build())

    def test_it_is_one_layer_with_names_owners_and_times_of_nobody(self):
        files = contents(self.build())
        manifest = follow(files, json.loads(files["index.json"])["manifests"][0])
        manifest = json.loads(manifest)
        self.assertEqual(len(manifest["layers"]), 1)
        with tarfile.open(fileobj=io.BytesIO(follow(files, manifest["layers"][0]))) as layer:
            found = [(m.name, oct(m.mode), m.uid, m.gid, m.uname, m.mtime) for m in layer.getmembers()]
        self.assertEqual(found, [
            ("etc", "0o755", 0, 0, "", 1767323045),
            ("etc/ssl", "0o755", 0, 0, "", 1767323045),
            ("etc/ssl/ca.crt", "0o644", 0, 0, "", 1767323045),
            ("mirror-sidecar", "0o755", 0, 0, "", 1767323045),
        ])

    def test_the_configuration_is_that_of_the_dockerfile(self):
        files = contents(self.build())
        manifest = json.loads(follow(files, json.loads(files["index.json"])["manifests"][0]))
        config = json.loads(follow(files, manifest["config"]))
        self.assertEqual((config["architecture"], config["os"]), ("arm64", "linux"))
        self.assertEqual(config["config"]["User"], "65532:65532")
        self.assertEqual(config["config"]["Entrypoint"], ["/mirror-sidecar"])
        labels = config["config"]["Labels"]
        self.assertEqual(labels, manifest["annotations"])
        self.assertEqual(labels["org.opencontainers.image.version"], "1.2.3")
        self.assertEqual(labels["org.opencontainers.image.revision"], "0" * 40)
        self.assertEqual(labels["org.opencontainers.image.created"], config["created"])
        package = self.package()
        self.assertEqual(labels["org.opencontainers.image.title"], package["name"])
        self.assertEqual(labels["org.opencontainers.image.description"], package["description"])
        self.assertEqual(labels["org.opencontainers.image.licenses"], package["license"])
        self.assertEqual(labels["org.opencontainers.image.source"], package["repository"])

    def package(self):
        done = run("cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1", cwd=ROOT)
        [package] = [package for package in json.loads(done.stdout)["packages"] if package["name"] == "mirror-sidecar"]
        return package

    def test_a_dockerfile_that_says_more_is_not_misread(self):
        for change in ("\nVOLUME /data\n", "\nCOPY --from=build /more /more\n", "\nARG OTHER\n"):
            with self.subTest(change.strip()), self.assertRaises(ValueError):
                self.build(DOCKERFILE + change)
        with self.assertRaises(ValueError):
            self.build(DOCKERFILE.replace("FROM scratch", "FROM debian:12"))


class Engine(unittest.TestCase):
    def image(self, *engines):
        """Runs `make image` where only these engines are; gives its exit code, output, and the engine's calls."""
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        for name, works in engines:
            program = folder / name
            program.write_text(f'#!/bin/sh\necho "{name} $*" >>{folder}/calls\n{"exit 0" if works else "exit 1"}\n')
            program.chmod(0o755)
        environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "ARCH": "arm64",
                       "CONTAINER_ENGINE": " ".join(name for name, _ in engines) or "no-such-engine"}
        done = run("make", "--no-print-directory", "image", "IMAGE=acme/sidecar:1", cwd=ROOT, env=environment)
        calls = (folder / "calls").read_text().splitlines() if engines else []
        return done.returncode, done.stderr, calls

    def test_the_first_engine_that_works_builds(self):
        code, errors, calls = self.image(("engine-without-daemon", False), ("engine", True))
        self.assertEqual(code, 0, errors)
        build = calls[-1]
        self.assertRegex(build, r"^engine build --platform linux/arm64 .*--tag acme/sidecar:1 \.$")
        for argument in ("VERSION", "REVISION", "CREATED"):
            self.assertRegex(build, rf"--build-arg {argument}=\S+")
        stage = DOCKERFILE.split("FROM scratch")[1]
        for argument in ("VERSION", "REVISION", "CREATED"):
            self.assertIn(f"ARG {argument}\n", stage)

    def test_without_an_engine_it_says_what_to_do(self):
        code, errors, _ = self.image()
        self.assertNotEqual(code, 0)
        self.assertIn("make image-oci", errors)


def contents(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        return {member.name: files.extractfile(member).read() for member in files.getmembers()}


def follow(files, descriptor):
    content = files["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]
    assert descriptor["digest"] == "sha256:" + hashlib.sha256(content).hexdigest()
    assert descriptor["size"] == len(content)
    return content
