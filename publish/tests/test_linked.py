"""What is linked into the program is listed, and nothing else."""

import json
import os
import unittest

from support import ROOT, run

TARGETS = ("x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl")


def linked(what, *targets):
    done = run(ROOT / "publish/linked.py", what, *(targets or TARGETS), cwd=ROOT, env={**os.environ, "SOURCE_DATE_EPOCH": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


class Linked(unittest.TestCase):
    def test_the_bill_has_what_is_linked(self):
        bill = json.loads(linked("sbom"))
        self.assertEqual((bill["spdxVersion"], bill["creationInfo"]["created"]), ("SPDX-2.3", "1970-01-01T00:00:01Z"))
        names = {package["name"] for package in bill["packages"]}
        self.assertLessEqual({"mirror-sidecar", "mirror-copy", "mirror-contract", "kube", "rustls", "ring", "tokio"}, names)
        # Of tests, of the policy, of compiling.
        self.assertEqual({"wasmtime", "rcgen", "wapc-guest", "e2e-tests", "testkit", "serde_derive", "cc"} & names, set())
        identifiers = [package["SPDXID"] for package in bill["packages"]]
        self.assertEqual(len(identifiers), len(set(identifiers)))
        related = {relation["relatedSpdxElement"] for relation in bill["relationships"]}
        self.assertEqual(related, set(identifiers))
        for package in bill["packages"]:
            with self.subTest(package["name"]):
                self.assertNotIn(package["licenseDeclared"], ("", "NOASSERTION"))
        self.assertEqual(json.loads(linked("sbom")), bill)

    def test_every_crate_has_its_license(self):
        text, bill = linked("licenses", TARGETS[0]), json.loads(linked("sbom", TARGETS[0]))
        for package in bill["packages"]:
            if not package["name"].startswith("mirror-"):
                self.assertIn(f"\n{package['name']} {package['versionInfo']}: ", text)
        for part in ("Apache License", "Permission is hereby granted, free of charge", "Rust's standard library"):
            self.assertIn(part, text)
        # Those without a text are under the license that the image has as LICENSE.
        bare = [line for line in text.splitlines() if "has no text" in line]
        self.assertEqual([line for line in bare if "Apache-2.0" not in line], [])
        self.assertNotIn(str(ROOT), text)
        self.assertEqual(linked("licenses", TARGETS[0]), text)


if __name__ == "__main__":
    unittest.main()
