"""What is pushed once stays: the scripts of the release, with a real registry and helm."""

import hashlib
import os
import shutil
import tempfile
import unittest
import urllib.request
from pathlib import Path

from support import REGISTRY_PROGRAM, ROOT, free_port, registry, run, skip

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Push(unittest.TestCase):
    def setUp(self):
        tools = run(ROOT / "charts/scripts/tools.sh", "helm")
        if tools.returncode != 0:
            skip(self, "helm cannot be had")
        for program in ("skopeo", "jq", REGISTRY_PROGRAM):
            if not shutil.which(program):
                skip(self, f"{program} is missing")
        self.folder = Path(tempfile.mkdtemp(prefix="image-mirror-publish-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.env = {
            **os.environ, "PATH": f"{tools.stdout.partition(':')[0]}:{os.environ['PATH']}", "PLAIN_HTTP": "1",
            "HOME": str(self.folder)}
        self.charts = f"127.0.0.1:{registry(self)}/charts"

    def package(self, description="A chart"):
        chart = self.folder / "chart"
        chart.mkdir(exist_ok=True)
        (chart / "Chart.yaml").write_text(
            f"apiVersion: v2\nname: image-mirror\nversion: 1.2.3-rc.1\ndescription: {description}\n")
        done = run("helm", "package", chart, "--destination", self.folder, env=self.env)
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.folder / "image-mirror-1.2.3-rc.1.tgz"

    def push(self, archive, charts=None):
        return run(ROOT / "publish/push-chart.sh", archive, charts or self.charts, env=self.env)

    def digest(self, name):
        return run(ROOT / "publish/digest.sh", name, env=self.env)

    def test_a_version_is_pushed_once_and_never_replaced(self):
        archive, name = self.package(), f"{self.charts}/image-mirror:1.2.3-rc.1"
        self.assertNotEqual(self.digest(name).returncode, 0)
        self.assertEqual(self.digest(name).stdout, "")
        done = self.push(archive)
        self.assertEqual(done.returncode, 0, done.stderr)
        host, _, path = name.partition("/")
        address = f"http://{host}/v2/{path.partition(':')[0]}/manifests/1.2.3-rc.1"
        asked = urllib.request.Request(address, headers={"Accept": MANIFEST})
        manifest = urllib.request.urlopen(asked, timeout=30).read()
        first = self.digest(name).stdout
        self.assertEqual(first, f"sha256:{hashlib.sha256(manifest).hexdigest()}\n")
        # The job runs again.
        done = self.push(archive)
        self.assertEqual((done.returncode, self.digest(name).stdout), (0, first))
        self.assertIn("is there already", done.stderr)
        done = self.push(self.package("Another"))
        self.assertEqual((done.returncode, self.digest(name).stdout), (1, first))
        self.assertIn("is another chart", done.stderr)

    def test_a_registry_that_does_not_answer_is_not_pushed_to(self):
        done = self.push(self.package(), f"127.0.0.1:{free_port()}/charts")
        self.assertEqual(done.returncode, 1)
        self.assertIn("nothing was pushed", done.stderr)


if __name__ == "__main__":
    unittest.main()
