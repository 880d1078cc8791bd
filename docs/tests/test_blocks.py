"""Every fenced block of every Markdown file is run, or checked, or says why not. README.md says how."""

import re
import tempfile
import unittest
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

from api_server import need_assets
from markdown import MarkError, blocks, written
from scratch import SIDECAR, Scratch
from support import CHART, HERE, HelmError, helm, values

KINDS = {"run", "output", "write", "values", "manifest", "not run"}
# Types that nobody here has schemas of; what they hold for the chart is rendered.
FOREIGN = {"Application", "HelmRelease", "OCIRepository", "Kustomization"}
# The version of Kubernetes whose schemas objects are held to.
KUBERNETES = "1.35"


class Marks(unittest.TestCase):
    def test_every_block_has_a_language_and_a_mark(self):
        for name in written():
            before = None
            for block in blocks(name):
                with self.subTest(str(block)):
                    self.assertTrue(block.language, "it has no language")
                    self.assertTrue(block.kind, "it has no mark: run, write, values, manifest, output, or not run: why")
                    self.assertIn(block.kind, KINDS)
                    if block.kind == "not run":
                        self.assertTrue(block.options["why"], "it does not say why")
                    if block.kind == "output":
                        self.assertIn(before, ("run", "output"), "it is below no block that runs")
                before = block.kind

    def test_what_is_wrong_is_found(self):
        self.assertEqual(blocks("x", "```console\nls\n```\n")[0].kind, "")
        self.assertEqual(blocks("x", "<!-- run -->\n\n```console\nls\n```\n")[0].kind, "")
        self.assertEqual(blocks("x", "<!-- run code=1 a=b -->\n```console\nls\n```\n")[0].replacements, [("a", "b")])
        with self.assertRaises(MarkError):
            blocks("x", "<!-- run quickly -->\n```console\nls\n```\n")
        with self.assertRaises(MarkError):
            blocks("x", "```console\nls\n")


class Blocks(unittest.TestCase):
    """One test for each file that has blocks, called after the file."""

    def check(self, name):
        found, printed = blocks(name), None
        if any("in" in block.options for block in found):
            need_assets(f"the blocks of {name} were NOT run")
        with Scratch() as scratch:
            for block in found:
                with self.subTest(str(block)):
                    if block.kind == "run":
                        printed, code, said = scratch.run(block)
                        wanted = int(block.options.get("code", 0))
                        self.assertEqual(code, wanted, f"exit code {code}:\n{printed}\n{said}")
                    elif block.kind == "output":
                        self.assertRegex(printed.rstrip(), pattern(block.text), f"it prints:\n{printed}")
                    elif block.kind == "values":
                        check_values(block.text)
                    elif block.kind == "manifest":
                        check_manifest(block.text)
                if file := block.options.get("file"):
                    scratch.write(file, block.text)


def pattern(text):
    """What is printed; three dots stand for anything."""
    return re.compile(rf"\A{'.*?'.join(map(re.escape, text.rstrip().split('…')))}\Z", re.S)


def check_values(text):
    """Renders the chart with these values; a registry that they leave out is given."""
    given = yaml.safe_load(text)
    registry = [] if "host" in given.get("registry", {}) else ["--set", "registry.host=registry.example.com"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "values.yaml")
        file.write_text(text)
        try:
            helm("template", "image-mirror", CHART, "--namespace", "image-mirror", "--values", file, *registry)
        except HelmError as error:
            raise AssertionError(str(error)) from None


def check_manifest(text):
    for item in yaml.safe_load_all(text):
        schema = HERE / "schemas" / f"{item['kind']}.schema.json"
        if schema.exists():
            # Labels are what the chart itself wants of its objects.
            jsonschema.validate({**item, "metadata": {"labels": {}, **item["metadata"]}}, values(schema))
        elif item["kind"] in FOREIGN:
            assert item["apiVersion"] and item["metadata"]["name"], item
            source = item["spec"].get("source", {}).get("helm", {}).get("valuesObject")
            if given := item["spec"].get("values") or source:
                check_values(yaml.safe_dump(given))
        else:
            kubernetes_validate.validate(item, KUBERNETES, strict=True)


def add_tests():
    for name in written():
        if any(block.kind not in ("", "not run") for block in blocks(name)):
            test = re.sub(r"\W+", "_", name.removesuffix(".in").removesuffix(".md")).lower()
            setattr(Blocks, f"test_{test}", lambda self, name=name: self.check(name))


add_tests()
assert SIDECAR.exists(), f"there is no {SIDECAR}"
