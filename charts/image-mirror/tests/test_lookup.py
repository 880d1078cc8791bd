"""What the chart finds out about a cluster before it installs anything."""

import os
import tempfile
import unittest

from fake_cluster import FakeCluster, serve
from support import CHART, NAMESPACE, HelmError, helm

CRDS = "policies.kubewarden.io/v1"


class Lookup(unittest.TestCase):
    def setUp(self):
        self.start(FakeCluster())

    def start(self, cluster):
        self.cluster = cluster
        kubeconfig = self.enterContext(serve(cluster))
        home = self.enterContext(tempfile.TemporaryDirectory())
        self.env = {**os.environ, "HOME": home, "KUBECONFIG": str(kubeconfig)}
        self.put("v1", "Namespace", "", "kube-system")

    def put(self, group, kind, namespace, name, **fields):
        plural = next(plural for plural, its_kind, _ in self.cluster.types[group] if its_kind == kind)
        prefix = f"/apis/{group}" if "/" in group else f"/api/{group}"
        item = {"metadata": {"name": name, **fields.pop("metadata", {})}, **fields}
        self.cluster.write(group, kind, (prefix, namespace, plural), name, item)

    def kubewarden(self, namespace, image):
        """Kubewarden's controller, and the webhook by which it validates its own types."""
        rules = [{"apiGroups": ["policies.kubewarden.io"]}]
        webhooks = [{"clientConfig": {"service": {"namespace": namespace, "name": "webhook"}}, "rules": rules}]
        self.put(
            "admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "", "kubewarden", webhooks=webhooks
        )
        labels = {"app.kubernetes.io/part-of": "kubewarden", "app.kubernetes.io/component": "controller"}
        spec = {"selector": {}, "template": {"spec": {"containers": [{"image": image}]}}}
        self.put("apps/v1", "Deployment", namespace, "controller", metadata={"labels": labels}, spec=spec)

    def install(self, *values):
        sets = [flag for value in ("registry.host=ghcr.io", "registry.repository=a", *values) for flag in ("--set", value)]
        helm("upgrade", "--install", "image-mirror", CHART, "--namespace", NAMESPACE, *sets, env=self.env)

    def refused(self, words, *values):
        with self.subTest(words):
            with self.assertRaises(HelmError) as caught:
                self.install(*values)
            self.assertIn(words, str(caught.exception))
            self.assertIsNone(self.cluster.get("Deployment", "mirror-sidecar"))

    def test_kubewarden_is_found(self):
        self.kubewarden("cattle-kubewarden-system", "registry.example.com/kubewarden/adm-controller/controller:v1.38.1")
        self.install()
        server = self.cluster.get("PolicyServer", "image-mirror")
        self.assertEqual(server["spec"]["image"], "ghcr.io/kubewarden/adm-controller/policy-server:v1.38.1")
        secret = self.cluster.get("Secret", "image-mirror-policy-server")
        self.assertEqual(secret["metadata"]["namespace"], "cattle-kubewarden-system")
        [container] = self.cluster.get("Deployment", "mirror-sidecar")["spec"]["template"]["spec"]["containers"]
        variables = {variable["name"]: variable.get("value") for variable in container["env"]}
        self.assertIn("cattle-kubewarden-system", variables["EXCLUDE_NAMESPACES"].split(","))

    def test_values_win_over_what_is_found(self):
        self.kubewarden("elsewhere", "ghcr.io/kubewarden/kubewarden-controller:v1.35.0")
        self.install("kubewarden.namespace=mine", "policyServer.image.tag=v1.37.0")
        server = self.cluster.get("PolicyServer", "image-mirror")
        self.assertTrue(server["spec"]["image"].endswith("adm-controller/policy-server:v1.37.0"), server)
        secret = self.cluster.get("Secret", "image-mirror-policy-server")
        self.assertEqual(secret["metadata"]["namespace"], "mine")

    def test_the_image_before_1_36_has_its_old_name(self):
        self.kubewarden("kubewarden", "ghcr.io/kubewarden/kubewarden-controller:v1.35.2")
        self.install()
        server = self.cluster.get("PolicyServer", "image-mirror")
        self.assertEqual(server["spec"]["image"], "ghcr.io/kubewarden/policy-server:v1.35.2")

    def test_what_is_too_old(self):
        self.kubewarden("kubewarden", "ghcr.io/kubewarden/kubewarden-controller:v1.34.9")
        self.refused("Kubewarden in this cluster: v1.34.9 is too old, the policy needs Kubewarden 1.35.0 or newer")
        self.kubewarden("kubewarden", "ghcr.io/kubewarden/kubewarden-controller:v1.37.0")
        self.refused("policyServer.image.tag: v1.30.0 is too old", "policyServer.image.tag=v1.30.0")
        shared = ("policyServer.create=false", "policyServer.name=shared")
        self.refused("there is no PolicyServer shared", *shared)
        self.put(CRDS, "PolicyServer", "", "shared", spec={"image": "ghcr.io/kubewarden/policy-server:v1.20.0"})
        self.refused("policy server shared: v1.20.0 is too old", *shared)

    def test_a_cluster_without_kubewarden(self):
        self.start(FakeCluster(without=[CRDS]))
        self.refused("Kubewarden is not installed in this cluster")

    def test_nothing_is_looked_up_without_the_rights(self):
        self.install("kubewarden.lookup=false", "kubewarden.namespace=mine", "registry.existingSecret=absent")
        server = self.cluster.get("PolicyServer", "image-mirror")
        self.assertTrue(server["spec"]["image"].endswith("adm-controller/policy-server:v1.37.2"), server)

    def test_secrets_that_values_name(self):
        self.kubewarden("kubewarden", "ghcr.io/kubewarden/adm-controller/controller:v1.37.2")
        push = "registry.existingSecret=push"
        self.refused(f"registry.existingSecret: there is no Secret push in the namespace {NAMESPACE}", push)
        self.put("v1", "Secret", NAMESPACE, "push", data={"username": "Ym90"})
        self.refused("has no key password", push)
        self.refused("in the namespace kubewarden", "policyServer.imagePullSecret=absent")
        self.refused("there is no Secret absent", r"upstream.registryCertificates.a\.example:5000=absent")
        self.refused("there is no ConfigMap absent", "upstream.caConfigMap=absent")
        self.put("v1", "Secret", NAMESPACE, "push", data={"username": "Ym90", "password": "cA=="})
        self.install(push)
        self.assertIsNotNone(self.cluster.get("Deployment", "mirror-sidecar"))


if __name__ == "__main__":
    unittest.main()
