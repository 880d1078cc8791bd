"""The plain manifests of a release hold no secret: what everybody can download must not be anybody's password."""

import json
import shutil
import tempfile
import unittest
from pathlib import Path

from support import ROOT, run, skip


class Manifests(unittest.TestCase):
    def render(self, values):
        tools = run(ROOT / "charts/scripts/tools.sh", "helm")
        if tools.returncode != 0:
            skip(self, "helm cannot be had")
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        helm = tools.stdout.partition(":")[0] + "/helm"
        done = run(ROOT / "charts/scripts/manifests.py", helm, folder, "image-mirror", values)
        self.assertEqual(done.returncode, 0, done.stderr)
        return (folder / "image-mirror.yaml").read_text(), json.loads((folder / "generated.json").read_text())

    def test_those_of_a_release_have_no_secret(self):
        text, generated = self.render(ROOT / "publish/manifests-values.yaml")
        self.assertEqual(generated, {})
        self.assertNotIn("kind: Secret\n", text)
        self.assertNotIn("PRIVATE KEY", text)
        for kind in ("Deployment", "ClusterRole", "PolicyServer", "ClusterAdmissionPolicy", "Certificate"):
            self.assertIn(f"kind: {kind}\n", text)
        self.assertEqual(text.count("kind: ValidatingAdmissionPolicy\n"), 3)
        self.assertEqual(text.count("validationActions: [Deny]\n"), 3)

    def test_others_would_be_seen(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as values:
            values.write("registry: {host: registry.example.com}\n")
            values.flush()
            text, generated = self.render(values.name)
        self.assertIn("kind: Secret\n", text)
        self.assertNotEqual(generated, {})


if __name__ == "__main__":
    unittest.main()
