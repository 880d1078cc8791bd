"""What is rendered: accepted by helm, by Kubernetes old and new, by Kubewarden, and as it was reviewed."""

import difflib
import functools
import json
import os
import unittest

import jsonschema
import kubernetes_validate
import yaml

from support import CASES, CHART, HERE, environment, helm, objects, only, render_text

GOLDEN = HERE / "golden"
# The oldest that the chart admits, and the newest whose schemas are bundled.
KUBERNETES = ["1.25", "1.37"]
# Those that are rendered only for clusters that have them, and since when they do.
NEWER = {"ValidatingAdmissionPolicy": "1.30", "ValidatingAdmissionPolicyBinding": "1.30"}
# Types that are no part of Kubernetes, and that somebody keeps a schema of here.
CUSTOM = {path.name.removesuffix(".schema.json") for path in (HERE / "schemas").glob("*.schema.json")}


def custom_errors(item):
    """What is wrong with an object of a type that Kubernetes does not know."""
    schema = json.loads((HERE / "schemas" / f"{item['kind']}.schema.json").read_text())
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(item)]


def builtin_error(item, version):
    """What is wrong with an object of Kubernetes, or nothing."""
    try:
        kubernetes_validate.validate(item, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return error.message
    return None


def for_each_case(test):
    """Runs a test once for each values file, with its name in what is told about failures."""

    @functools.wraps(test)
    def run(self):
        for case in CASES:
            with self.subTest(case.name):
                test(self, case)

    return run


@functools.cache
def text_of(case, version=KUBERNETES[-1]):
    """The render of a values file. Nothing is random in it, so it is made once."""
    return render_text("--values", case, "--kube-version", version)


def rendered(case, version=KUBERNETES[-1]):
    """Its objects, by kind and name."""
    return objects(text_of(case, version))


class Rendered(unittest.TestCase):
    def test_there_are_enough_cases(self):
        self.assertGreaterEqual(len(CASES), 6)

    @for_each_case
    def test_lint(self, case):
        helm("lint", "--strict", "--quiet", CHART, "--values", case)

    @for_each_case
    def test_is_as_it_was_reviewed(self, case):
        text = text_of(case)
        golden = GOLDEN / case.name.replace("-values", "")
        if os.environ.get("ACCEPT"):
            golden.write_text(text)
        self.assertTrue(golden.exists(), f"{golden} is missing: ACCEPT=1")
        lines = difflib.unified_diff(
            golden.read_text().splitlines(), text.splitlines(), golden.name, "now", lineterm=""
        )
        difference = "\n".join(lines)
        self.assertEqual(difference, "", f"ACCEPT=1 accepts this:\n{difference}")

    def test_no_golden_render_is_left_over(self):
        wanted = {case.name.replace("-values", "") for case in CASES}
        self.assertEqual({path.name for path in GOLDEN.iterdir()}, wanted)

    @for_each_case
    def test_kubernetes_accepts_it(self, case):
        for cluster in KUBERNETES:
            for item in rendered(case, cluster).values():
                if item["kind"] in CUSTOM:
                    self.assertEqual(custom_errors(item), [], item["kind"])
                    continue
                version = max(NEWER.get(item["kind"], cluster), cluster)
                self.assertIsNone(builtin_error(item, version), f"{item['kind']} in {version}")

    def test_replicas_that_are_not_ready_do_not_block_drains(self):
        """Where Kubernetes knows how to say that; in 1.26 it is not on by default."""
        for version, policy in [
            ("1.25", None),
            ("1.26.5", None),
            ("1.27.0-eks-1", "AlwaysAllow"),
            ("1.37", "AlwaysAllow"),
        ]:
            text = render_text("--set", "registry.host=ghcr.io", "--kube-version", version)
            self.assertEqual(
                only(objects(text), "PodDisruptionBudget")["spec"].get("unhealthyPodEvictionPolicy"), policy
            )

    @for_each_case
    def test_fields_of_the_policy_server_that_become_fields_of_pods(self, case):
        for (kind, _), item in rendered(case).items():
            if kind == "PolicyServer":
                for version in KUBERNETES:
                    self.assertIsNone(builtin_error(pod_of(item["spec"]), version))

    @for_each_case
    def test_the_policy_has_no_rights_in_the_cluster(self, case):
        """Kubewarden lets a policy read what its `contextAwareResources` name, with the account of the policy server."""
        for (kind, _), item in rendered(case).items():
            if kind == "ClusterAdmissionPolicy":
                self.assertNotIn("contextAwareResources", item["spec"])

    @for_each_case
    def test_every_object_has_its_labels(self, case):
        for (kind, name), item in rendered(case).items():
            labels = item["metadata"]["labels"]
            self.assertEqual(labels["app.kubernetes.io/instance"], "image-mirror", (kind, name))
            self.assertEqual(labels["app.kubernetes.io/part-of"], "image-mirror", (kind, name))

    @for_each_case
    def test_selectors_select_the_pods_and_nothing_else(self, case):
        found = rendered(case)
        deployment = only(found, "Deployment")["spec"]
        labels = deployment["template"]["metadata"]["labels"]
        selectors = [deployment["selector"]["matchLabels"], only(found, "Service")["spec"]["selector"]]
        for kind, field in [("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")]:
            selectors += [item["spec"][field]["matchLabels"] for (its, _), item in found.items() if its == kind]
        for selector in selectors:
            self.assertEqual(selector, selectors[0])
            self.assertLessEqual(selector.items(), labels.items())

    @for_each_case
    def test_files_that_variables_name_are_mounted(self, case):
        found = rendered(case)
        pod = only(found, "Deployment")["spec"]["template"]["spec"]
        [container] = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        self.assertEqual(sorted(mounts.values()), sorted(volumes))
        paths = [
            path for value in environment(found).values() for path in (value or "").split(",") if path.startswith("/")
        ]
        self.assertTrue(paths)
        for path in paths:
            if any(mount.startswith(f"{path}/") for mount in mounts):
                continue  # a folder of folders
            folder, _, file = path.rpartition("/")
            volume = volumes[mounts[folder]]
            if "secret" in volume:
                self.assertIn(file, [item["path"] for item in volume["secret"]["items"]])

    @for_each_case
    def test_secrets_that_pods_mount_exist_or_are_named_by_the_values(self, case):
        found, told = rendered(case), case.read_text()
        for volume in only(found, "Deployment")["spec"]["template"]["spec"]["volumes"]:
            name = volume.get("secret", {}).get("secretName")
            made_by_cert_manager = [
                item["spec"]["secretName"] for (kind, _), item in found.items() if kind == "Certificate"
            ]
            if name and name not in made_by_cert_manager and f": {name}\n" not in told:
                self.assertIn(("Secret", name), found)

    def test_a_typo_is_caught_in_every_type(self):
        """The schemas are strict, ours too: nothing above passes because nobody looked."""
        seen = set()
        for case in CASES:
            for item in rendered(case).values():
                field = next((name for name in ("spec", "rules", "roleRef", "type") if name in item), None)
                if item["kind"] in seen or field is None:
                    continue
                seen.add(item["kind"])
                broken = yaml.safe_load(yaml.safe_dump(item))
                target = broken[field] if isinstance(broken[field], dict) else broken
                target["tpyo"] = True
                with self.subTest(item["kind"]):
                    if item["kind"] in CUSTOM:
                        self.assertNotEqual(custom_errors(broken), [])
                    else:
                        self.assertIsNotNone(builtin_error(broken, KUBERNETES[-1]))
        self.assertGreaterEqual(seen, CUSTOM)


def pod_of(spec):
    """A Pod with the fields that Kubewarden copies from a PolicyServer."""
    contexts = spec.get("securityContexts", {})
    container = {
        "name": "policy-server",
        "image": spec["image"],
        "env": spec.get("env", []),
        "resources": {name: spec[name] for name in ("limits", "requests") if name in spec},
        "securityContext": contexts.get("container", {}),
    }
    copied = {
        name: spec[name]
        for name in ("affinity", "tolerations", "priorityClassName", "serviceAccountName")
        if name in spec
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "policy-server", "annotations": spec.get("annotations", {})},
        "spec": {"containers": [container], "securityContext": contexts.get("pod", {}), **copied},
    }
