"""The alert rules, tried by promtool: what happens over hours, and what is told then."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import yaml

from support import HERE, only, render

FLAGS = ("--set", "registry.host=ghcr.io", "--set", "monitoring.prometheusRule.enabled=true")


def groups():
    return only(render(*FLAGS), "PrometheusRule")["spec"]["groups"]


class Alerts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not shutil.which("promtool"):
            missing = "there is no promtool, which is in Debian's package prometheus"
            if os.environ.get("CI"):
                raise AssertionError(missing)
            print(f"SKIPPED: the alert rules were NOT tried: {missing}", file=sys.stderr)
            raise unittest.SkipTest(missing)

    def promtool(self, rules, *arguments):
        """Runs promtool beside these rules and the cases; gives its exit code and what it says."""
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "rules.yaml").write_text(yaml.safe_dump({"groups": rules}))
            shutil.copy(HERE / "alerts.yaml", folder)
            done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def test_they_are_rules(self):
        code, text = self.promtool(groups(), "check", "rules", "--lint-fatal", "rules.yaml")
        self.assertEqual(code, 0, text)

    def test_what_happens_and_what_is_told(self):
        code, text = self.promtool(groups(), "test", "rules", "alerts.yaml")
        self.assertEqual(code, 0, text)

    def test_every_rule_fires_in_some_case(self):
        """And in the first one, in which all is well, none does. So neither a rule that never fires nor one that always does
        passes."""
        cases = (HERE / "alerts.yaml").read_text()
        for rule in groups()[0]["rules"]:
            self.assertIn(f'alertname="{rule["alert"]}"', cases)

    def test_the_cases_can_fail(self):
        rules = groups()
        rules[0]["rules"][0]["expr"] = "vector(1)"
        code, text = self.promtool(rules, "test", "rules", "alerts.yaml")
        self.assertNotEqual(code, 0, text)
