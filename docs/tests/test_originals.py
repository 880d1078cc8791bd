"""The program of uninstall.md returns to their originals all objects that the policy's recorded answers rewrote."""

import json
import subprocess
import tempfile
import unittest
from pathlib import Path

from cluster import rewritten
from markdown import blocks

NOTE = "image-mirror.dev/original-images"
# Neither can be changed in place, and uninstall.md says so.
UNCHANGEABLE = {"Job", "Pod"}


def program():
    [text] = [block.text for block in blocks("docs/uninstall.md") if block.language == "jq"]
    return text


def returned(*items):
    """What the program makes of these objects."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "originals.jq")
        file.write_text(program())
        command = ["jq", "--from-file", str(file)]
        done = subprocess.run(command, input=json.dumps({"items": items}), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["items"]


class Originals(unittest.TestCase):
    def test_every_object_is_what_it_was(self):
        kinds = set()
        for after, before in rewritten():
            if after["kind"] in UNCHANGEABLE or before["metadata"].get("ownerReferences"):
                continue
            with self.subTest(after["kind"]):
                self.assertNotEqual(after, before)
                self.assertEqual(returned(after), [before])
                kinds.add(after["kind"])
        self.assertLessEqual({"Deployment", "StatefulSet", "DaemonSet", "CronJob"}, kinds)

    def test_what_was_applied_again_without_the_policy_loses_the_rest(self):
        """That puts back the images, and leaves the note and the pull Secret."""
        for after, before in rewritten():
            if after["kind"] == "Deployment":
                applied = json.loads(json.dumps(before))
                template = applied["spec"]["template"]
                template["metadata"]["annotations"] = after["spec"]["template"]["metadata"]["annotations"]
                listed = after["spec"]["template"]["spec"].get("imagePullSecrets")
                if listed:
                    template["spec"]["imagePullSecrets"] = listed
                self.assertEqual(returned(applied), [before])

    def test_what_has_no_note_or_an_owner_is_left_out(self):
        [deployment] = [item for item, _ in rewritten() if item["kind"] == "Deployment"][:1]
        owned = json.loads(json.dumps(deployment))
        owned["metadata"]["ownerReferences"] = [{"controller": True}]
        bare = json.loads(json.dumps(deployment))
        del bare["spec"]["template"]["metadata"]["annotations"]
        self.assertEqual(returned(owned, bare), [])

    def test_other_pull_secrets_stay_and_an_empty_list_goes(self):
        note = json.dumps({"b/copy:1": "app:1", "imagePullSecret": "image-mirror-pull"})
        ours, theirs = {"name": "image-mirror-pull"}, {"name": "team"}
        for listed, left in [([ours], None), ([theirs, ours], [theirs])]:
            spec = {"containers": [{"image": "b/copy:1"}, {"image": "other:1"}], "imagePullSecrets": listed}
            template = {"metadata": {"annotations": {NOTE: note, "a": "b"}}, "spec": spec}
            [item] = returned({"kind": "Deployment", "metadata": {}, "spec": {"template": template}})
            found = item["spec"]["template"]
            self.assertEqual([part["image"] for part in found["spec"]["containers"]], ["app:1", "other:1"])
            self.assertEqual(found["spec"].get("imagePullSecrets"), left)
            self.assertEqual(found["metadata"]["annotations"], {"a": "b"})

    def test_a_secret_that_somebody_else_listed_stays(self):
        template = {
            "metadata": {"annotations": {NOTE: json.dumps({"b/copy:1": "app:1"})}},
            "spec": {"containers": [{"image": "b/copy:1"}], "imagePullSecrets": [{"name": "image-mirror-pull"}]},
        }
        [item] = returned({"kind": "Deployment", "metadata": {}, "spec": {"template": template}})
        self.assertEqual(item["spec"]["template"]["spec"]["imagePullSecrets"], [{"name": "image-mirror-pull"}])
