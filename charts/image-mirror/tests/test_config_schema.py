"""The published schema of the sidecar's configuration file accepts the files that the sidecar accepts.

The unit tests of the sidecar hold its parser to the same cases.
"""

import json
import unittest

import jsonschema
import yaml

from support import ROOT


class Schema(unittest.TestCase):
    def test_it_agrees_with_the_cases_of_the_parser(self):
        schema = json.loads((ROOT / "docs/config.schema.json").read_text())
        jsonschema.Draft7Validator.check_schema(schema)
        validator = jsonschema.Draft7Validator(schema)
        cases = yaml.safe_load((ROOT / "mirror-sidecar/src/config/tests/cases.yaml").read_text().replace("FILES", "/files"))
        self.assertEqual(set(cases), {"valid", "invalid"})
        for kind, files in cases.items():
            for name, file in files.items():
                with self.subTest(name):
                    self.assertEqual(validator.is_valid(file), kind == "valid", file)
