"""The hand-kept schemas agree with Kubewarden's own definitions, where KUBEWARDEN_CRDS names a folder that has them."""

import json
import os
import re
import unittest
from pathlib import Path

import jsonschema
import yaml

from support import CASES, HERE, render

FOLDER = os.environ.get("KUBEWARDEN_CRDS")
KINDS = ("PolicyServer", "ClusterAdmissionPolicy")


def definitions():
    """The schemas of version v1, by kind, out of custom resource definitions; templates of Helm are forgiven."""
    found = {}
    for path in Path(FOLDER).rglob("*.yaml"):
        text = re.sub(r"(?m)^.*\{\{.*\}\}.*\n", "", path.read_text())
        for item in yaml.safe_load_all(text):
            if item and item.get("kind") == "CustomResourceDefinition":
                for version in item["spec"]["versions"]:
                    if version["name"] == "v1":
                        found[item["spec"]["names"]["kind"]] = strict(version["schema"]["openAPIV3Schema"])
    return found


def strict(node):
    """The same schema, which refuses unknown fields as the API server does when it is asked to."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {
        key: strict(value) if key != "properties" else {name: strict(item) for name, item in value.items()}
        for key, value in node.items()
    }
    if node.get("x-kubernetes-int-or-string"):
        node.pop("type", None)
    if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
        node.setdefault("additionalProperties", False)
    return node


@unittest.skipUnless(FOLDER, "optional: KUBEWARDEN_CRDS is not set, so nothing was compared with Kubewarden's own definitions")
class Definitions(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.definitions = definitions()

    def test_they_are_there(self):
        self.assertLessEqual(set(KINDS), set(self.definitions))

    def test_they_accept_everything_that_is_rendered(self):
        for case in CASES:
            for (kind, _), item in render("--values", case).items():
                if kind in KINDS:
                    with self.subTest(case=case.name, kind=kind):
                        schema = self.definitions[kind]["properties"]["spec"]
                        errors = [
                            error.message for error in jsonschema.Draft7Validator(schema).iter_errors(item["spec"])
                        ]
                        self.assertEqual(errors, [])

    def test_our_schemas_know_no_field_that_they_do_not(self):
        def compare(ours, theirs, path):
            if theirs.get("x-kubernetes-preserve-unknown-fields"):
                return
            for name, node in ours.get("properties", {}).items():
                self.assertIn(name, theirs.get("properties", {}), f"{path}.{name}")
                compare(node, theirs["properties"][name], f"{path}.{name}")
            if "items" in ours:
                compare(ours["items"], theirs["items"], f"{path}[]")

        for kind in KINDS:
            ours = json.loads((HERE / "schemas" / f"{kind}.schema.json").read_text())
            compare(ours["properties"]["spec"], self.definitions[kind]["properties"]["spec"], kind)
