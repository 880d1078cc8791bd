"""The chart in a real API server: installed, upgraded and removed by helm, with the rights that its roles really give.

The server may be older than the chart admits, so what it does not know is left out: the PodDisruptionBudget, and the
condition on the version. Kubewarden's types accept any fields here; test_kubewarden looks at those.
"""

import json
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path

from admission import Policy
from api_server import ApiServer, need_assets
from real_sidecar import PATIENCE, SIDECAR, registry, running
from support import CHART, NAMESPACE, helm

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:mirror-sidecar"
FLAGS = (
    "--set",
    "registry.host=ghcr.io",
    "--set",
    "pull.existingSecret=a",
    "--set",
    "podDisruptionBudget.enabled=false",
)
# A workload that uses a copy, the pull Secret that the sidecar made for it, and a Secret that is somebody else's.
REWRITTEN = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: bread}
spec:
  selector: {matchLabels: {app: bread}}
  template:
    metadata:
      labels: {app: bread}
      annotations: {image-mirror.dev/original-images: '{"ghcr.io/docker.io-library-nginx:1.27":"nginx:1.27"}'}
    spec:
      imagePullSecrets: [{name: image-mirror-pull}]
      containers: [{name: nginx, image: "ghcr.io/docker.io-library-nginx:1.27"}]
---
apiVersion: v1
kind: Secret
metadata:
  name: image-mirror-pull
  labels: {app.kubernetes.io/managed-by: image-mirror}
type: kubernetes.io/dockerconfigjson
data: {.dockerconfigjson: e30=}
---
apiVersion: v1
kind: Secret
metadata:
  name: app
  labels: {app.kubernetes.io/managed-by: Helm}
stringData: {a: b}
"""


READMITTED = "image-mirror.dev/readmitted"
TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"
COPY = "registry.example.com/acme/mirror/docker.io-library-nginx:1.27"
WORKLOADS = ["DaemonSet", "Deployment", "StatefulSet", "ReplicaSet", "ReplicationController", "CronJob"]


def workload(kind, api_version):
    """A workload of this kind with one image."""
    pod = {"containers": [{"name": "nginx", "image": "nginx:1.27"}]}
    template = {"metadata": {"labels": {"app": "a"}}, "spec": pod}
    spec = {"selector": {"matchLabels": {"app": "a"}}, "template": template}
    if kind == "CronJob":
        pod["restartPolicy"] = "Never"
        spec = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": {"spec": pod}}}}
    elif kind == "StatefulSet":
        spec["serviceName"] = "a"
    elif kind == "ReplicationController":
        spec["selector"] = {"app": "a"}
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}, "spec": spec}


def readmission(kind):
    """The merge patch of a re-admission, as the sidecar and the policy make it together."""
    template = {"spec": {"containers": [{"name": "nginx", "image": COPY}]}}
    template["metadata"] = {"annotations": {"image-mirror.dev/original-images": json.dumps({COPY: "nginx:1.27"})}}
    spec = {"jobTemplate": {"spec": {"template": template}}} if kind == "CronJob" else {"template": template}
    return {"metadata": {"annotations": {READMITTED: "2026-01-01T00:00:00Z"}}, "spec": spec}


# The operator's, which the values name.
OWN_SECRETS = {"a", "mine"}


class RealServer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need_assets("the chart was NOT installed in a real API server")
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        server = cls.enterClassContext(ApiServer(cls.folder))
        cls.env, cls.kubectl = server.env, staticmethod(server.kubectl)
        # The scripts look for the chart beside them.
        cls.chart = cls.folder / "charts" / CHART.name
        shutil.copytree(CHART, cls.chart, ignore=shutil.ignore_patterns("tests", "ci"))
        shutil.copytree(CHART.parent / "scripts", cls.chart.parent / "scripts")
        head = cls.chart / "Chart.yaml"
        head.write_text(re.sub(r"(?m)^kubeVersion:.*\n", "", head.read_text()))
        cls.kubectl("create", "namespace", "kubewarden")
        cls.kubectl("create", "namespace", NAMESPACE)
        # The chart refuses values that name a Secret that is not there.
        login = ["--from-literal=username=a", "--from-literal=password=b"]
        cls.kubectl("create", "secret", "generic", "a", "--namespace", NAMESPACE, *login)
        pair = ["--from-literal=tls.crt=a", "--from-literal=tls.key=b"]
        cls.kubectl("create", "secret", "generic", "mine", "--namespace", NAMESPACE, *pair)
        server.define_kubewarden()

    def objects(self, *kinds, namespace=NAMESPACE):
        items = json.loads(self.kubectl("get", ",".join(kinds), "--namespace", namespace, "--output", "json"))["items"]
        return {(item["kind"], item["metadata"]["name"]): item for item in items}

    def generated(self):
        """The Secrets of the chart with their data, and the authorities that the policy server trusts."""
        found = {**self.objects("secrets"), **self.objects("secrets", namespace="kubewarden")}
        data = {
            name: item["data"]
            for (_, name), item in found.items()
            if item["type"] != "helm.sh/release.v1" and name not in OWN_SECRETS
        }
        server = json.loads(self.kubectl("get", "policyserver", "image-mirror", "--output", "json"))
        return data, server["spec"]["sourceAuthorities"]

    def upgrade(self, *flags):
        helm("upgrade", "--install", "image-mirror", self.chart, "--namespace", NAMESPACE, *FLAGS, *flags, env=self.env)

    def script(self, name, **variables):
        """Runs one of the scripts; gives what it prints."""
        path = self.chart.parent / "scripts" / name
        done = subprocess.run([path], env={**self.env, **variables}, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        return done.stdout

    def may(self, verb, what, namespace=None):
        """Whether the sidecar's account may do this."""
        place = ["--namespace", namespace] if namespace else ["--all-namespaces"]
        return self.kubectl("auth", "can-i", verb, what, *place, "--as", ACCOUNT, check=False).strip() == "yes"

    def test_the_life_of_a_release(self):
        self.upgrade()
        before, roles = self.generated(), self.objects("roles", "rolebindings")
        self.assertEqual(len(before[0]), 4, before[0].keys())

        with self.subTest("the rights are those that the sidecar needs"):
            for verb, what, namespace in [
                ("list", "pods", None),
                ("watch", "namespaces", None),
                ("watch", "deployments.apps", None),
                ("list", "cronjobs.batch", None),
                ("patch", "statefulsets.apps", "shop"),
                ("patch", "cronjobs.batch", "shop"),
                ("create", "secrets", "shop"),
                ("patch", "secrets/image-mirror-pull", "shop"),
                ("delete", "secrets/image-mirror-pull", "shop"),
                ("create", "events.events.k8s.io", "shop"),
                ("create", "leases.coordination.k8s.io", NAMESPACE),
            ]:
                self.assertTrue(self.may(verb, what, namespace), f"{verb} {what} in {namespace}")

        with self.subTest("and no others"):
            for verb, what, namespace in [
                ("get", "secrets/mirror-sidecar-ca", NAMESPACE),
                ("get", "secrets/app", "shop"),
                ("list", "secrets", "shop"),
                ("delete", "secrets", "shop"),
                ("delete", "pods", "shop"),
                ("patch", "pods", "shop"),
                ("create", "pods", "shop"),
                ("patch", "jobs.batch", "shop"),
                ("get", "configmaps", "shop"),
                ("create", "leases.coordination.k8s.io", "shop"),
                ("escalate", "clusterroles.rbac.authorization.k8s.io", None),
                ("patch", "namespaces", None),
            ]:
                self.assertFalse(self.may(verb, what, namespace), f"{verb} {what} in {namespace}")
            self.assertIn("forbidden", self.as_the_account("PATCH", "/api/v1/namespaces/shop/pods/a", {}))

        with self.subTest("an upgrade keeps what was generated"):
            self.upgrade(
                "--set",
                "replicas=3",
                "--set",
                "log.format=json",
                "--set",
                "additionalLabels.team=a",
                "--set",
                "policy.rules=pods",
            )
            self.assertEqual(self.generated(), before)
            self.assertEqual(self.objects("deployments")["Deployment", "mirror-sidecar"]["spec"]["replicas"], 3)

        with self.subTest("without work in the cluster there are no rights"):
            self.upgrade("--set", "cluster.mode=off", "--set", "pull.existingSecret=")
            self.assertNotEqual(roles, {})
            self.assertEqual(self.objects("roles", "rolebindings"), {})
            self.assertFalse(self.may("list", "pods"))
            self.upgrade()
            self.assertEqual(self.generated(), before)

        with self.subTest("changing the source of the certificate"):
            self.upgrade(
                "--set",
                "tls.source=secret",
                "--set",
                "tls.existingSecret=mine",
                "--set",
                "tls.ca=-----BEGIN CERTIFICATE-----\nZg==\n-----END CERTIFICATE-----",
            )
            self.upgrade()

        with self.subTest("nothing stays"):
            helm("uninstall", "image-mirror", "--namespace", NAMESPACE, env=self.env)
            left = self.objects("secrets,services,deployments,networkpolicies,serviceaccounts,roles,rolebindings")
            ours = {("ServiceAccount", "default"), *(("Secret", name) for name in OWN_SECRETS)}
            self.assertEqual(set(left) - ours, set())
            self.assertEqual(self.objects("secrets", namespace="kubewarden"), {})
            self.assertEqual(self.kubectl("get", "policyservers,clusteradmissionpolicies", "--output", "name"), "")

    def test_the_commands_that_the_notes_tell(self):
        self.upgrade()
        notes = helm("get", "notes", "image-mirror", "--namespace", NAMESPACE, env=self.env)
        commands = re.findall(r"(?m)^   (kubectl .*)$", notes)
        self.assertEqual(len(commands), 5, notes)
        *commands, forward = commands
        # No controller is here to bring this about.
        status = {
            "observedGeneration": 1,
            "replicas": 2,
            "updatedReplicas": 2,
            "readyReplicas": 2,
            "availableReplicas": 2,
        }
        self.set_status("deployment", "mirror-sidecar", status)
        self.set_status(
            "clusteradmissionpolicy", "image-mirror", {"conditions": [{"type": "PolicyActive", "status": "True"}]}
        )
        said = []
        for command in commands:
            done = subprocess.run(
                ["bash", "-c", command], env=self.env, capture_output=True, text=True, check=False, timeout=PATIENCE
            )
            self.assertEqual(done.returncode, 0, f"{command}: {done.stderr}")
            said.append(done.stdout)
        self.assertIn("successfully rolled out", said[0])
        self.assertIn("condition met", said[1])
        self.assertEqual(said[3], "nginx:1.27\n")
        # Nothing runs here that a port could be forwarded to.
        service, ports = re.search(r"port-forward service/(\S+) 8080:(\S+)$", forward).groups()
        found = self.objects("services")["Service", service]
        self.assertIn(ports, [port["name"] for port in found["spec"]["ports"]])
        self.kubectl("delete", "deployment", "hello", "--namespace", "default")
        helm("uninstall", "image-mirror", "--namespace", NAMESPACE, env=self.env)

    def as_the_account(self, method, path, body):
        """What the server says against a request of the sidecar's account; nothing if it does it."""
        config = json.loads((self.folder / "kubeconfig").read_text())
        kind = "merge-patch+json" if method == "PATCH" else "json"
        headers = {"Content-Type": f"application/{kind}", "Impersonate-User": ACCOUNT}
        headers["Authorization"] = f"Bearer {config['users'][0]['user']['token']}"
        url = config["clusters"][0]["cluster"]["server"] + path
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
        # The certificate is the server's own, made a moment ago.
        context = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE, context=context):
                return ""
        except urllib.error.HTTPError as refused:
            return json.load(refused)["message"]

    def make_workloads(self, namespace):
        """One of each kind, in this namespace."""
        versions = self.kubectl("api-versions").split()
        cron = "batch/v1beta1" if "batch/v1beta1" in versions else "batch/v1"
        groups = {"ReplicationController": "v1", "CronJob": cron}
        for kind in WORKLOADS:
            item = workload(kind, groups.get(kind, "apps/v1"))
            self.kubectl("create", "--namespace", namespace, "--filename", "-", stdin=json.dumps(item))

    def patch(self, kind, namespace, patch, *flags, check=True):
        command = ["patch", kind, "a", "--namespace", namespace, "--type=merge", "--patch", json.dumps(patch), *flags]
        return self.kubectl(*command, check=check)

    def test_what_the_server_changes_by_itself_is_denied_to_nobody(self):
        """What it makes of a re-admission, of all kinds, is what the admission policy allows."""
        policy = Policy("workloads")
        self.kubectl("create", "namespace", "kinds")
        self.make_workloads("kinds")
        for kind in WORKLOADS:
            before = json.loads(self.kubectl("get", kind, "a", "--namespace", "kinds", "--output", "json"))
            self.patch(kind, "kinds", readmission(kind))
            after = json.loads(self.kubectl("get", kind, "a", "--namespace", "kinds", "--output", "json"))
            with self.subTest(kind):
                self.assertIn(COPY, json.dumps(after["spec"]))
                self.assertEqual(policy.refusals("UPDATE", before, after, kind=kind), [])
                if kind == "DaemonSet":
                    generations = [item["metadata"]["annotations"][TEMPLATE_GENERATION] for item in (before, after)]
                    self.assertEqual(generations, ["1", "2"])

    def test_a_server_that_knows_admission_policies_enforces_them(self):
        if "validatingadmissionpolicies" not in self.kubectl("api-resources", "--output", "name"):
            print("SKIPPED: the admission policies were NOT tried: this API server is older than 1.30", file=sys.stderr)
            self.skipTest("this API server is older than 1.30")
        backup = ("--set", "registry.host=registry.example.com", "--set", "registry.repository=acme/mirror")
        self.upgrade(*backup)
        self.kubectl("create", "namespace", "guarded")
        for namespace in ("guarded", "kube-system"):
            self.make_workloads(namespace)

        def patched(namespace, patch, kind="DaemonSet"):
            group = {"ReplicationController": "api/v1", "CronJob": "apis/batch/v1"}.get(kind, "apis/apps/v1")
            return self.as_the_account("PATCH", f"/{group}/namespaces/{namespace}/{kind.lower()}s/a", patch)

        evil = readmission("DaemonSet")
        evil["spec"]["template"]["spec"]["containers"][0]["image"] = "evil.example/a:1"
        deadline = time.monotonic() + PATIENCE
        # A policy is in force some time after it was made.
        while "containers to copies" not in patched("guarded", evil):
            self.assertLess(time.monotonic(), deadline, "the admission policy is not in force")
        for kind in WORKLOADS:
            self.assertIn("excluded namespaces", patched("kube-system", readmission(kind), kind))
            self.assertIn("no metadata", patched("guarded", {"metadata": {"labels": {"a": "b"}}}, kind))
            self.assertEqual(patched("guarded", readmission(kind), kind), "", kind)
        for namespace, name, words in [
            ("kube-system", "image-mirror-pull", "excluded namespaces"),
            ("guarded", "token", "no Secret but"),
            ("guarded", "image-mirror-pull", ""),
        ]:
            labels = {"app.kubernetes.io/managed-by": "image-mirror"}
            secret = {"metadata": {"name": name, "labels": labels}, "type": "kubernetes.io/dockerconfigjson"}
            secret["data"] = {".dockerconfigjson": "e30="}
            message = self.as_the_account("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
            self.assertTrue(words in message if words else message == "", message)
        helm("uninstall", "image-mirror", "--namespace", NAMESPACE, env=self.env)

    def set_status(self, kind, name, status):
        patch = json.dumps({"status": status})
        # The definition of Kubewarden's types here has no subresource for it.
        place = ["--subresource=status", "--namespace", NAMESPACE] if kind == "deployment" else []
        self.kubectl("patch", kind, name, *place, "--type=merge", "--patch", patch)

    def test_it_is_deployed_and_removed_and_what_runs_stays(self):
        values = self.folder / "more.yaml"
        values.write_text("podDisruptionBudget: {enabled: false}\n")
        backup = {"REGISTRY": "ghcr.io", "REGISTRY_USERNAME": "bot", "REGISTRY_PASSWORD": "secret"}
        # In a namespace of its own, which is made.
        place = {"NAMESPACE": "mirrors", "VALUES": str(values)}
        self.script("deploy.sh", **backup, **place)
        self.assertIn(("Deployment", "mirror-sidecar"), self.objects("deployments", namespace="mirrors"))
        # What the policy and the sidecar would have made of a workload.
        self.kubectl("create", "namespace", "bakery")
        objects = self.folder / "bakery.yaml"
        objects.write_text(REWRITTEN)
        self.kubectl("apply", "--namespace", "bakery", "--filename", objects)
        before = self.objects("deployments", "secrets", namespace="bakery")
        out = self.script("undeploy.sh", **place)
        left = self.objects("secrets,services,deployments,networkpolicies,serviceaccounts", namespace="mirrors")
        self.assertEqual([name for name in left if name != ("ServiceAccount", "default")], [])
        self.assertEqual(self.kubectl("get", "policyservers,clusteradmissionpolicies", "--output", "name"), "")
        self.assertEqual(self.kubectl("get", "clusterroles", "--output", "name").count("image-mirror"), 0)
        self.assertEqual(self.objects("deployments", "secrets", namespace="bakery"), before)
        # And what it says about the rest.
        [command] = re.findall(r"(?m)^  (kubectl .*)$", out)
        self.assertIn(command, (CHART / "README.md").read_text())
        subprocess.run(["bash", "-c", command], env=self.env, check=True, capture_output=True)
        after = self.objects("deployments", "secrets", namespace="bakery")
        self.assertEqual(set(before) - set(after), {("Secret", "image-mirror-pull")})

    @unittest.skipUnless(SIDECAR, "there is no mirror-sidecar: the sidecar was NOT run with the chart's rights")
    def test_the_sidecar_is_refused_nothing(self):
        """It works with the rights of its mode: it sees a workload, and tries to copy the image of it."""
        host = self.enterContext(registry())
        self.kubectl("create", "namespace", "shop")
        self.kubectl("create", "deployment", "app", "--namespace", "shop", f"--image={host}/upstream/app:1")
        for sets in [
            ("pull.existingSecret=a",),
            ("pull.existingSecret=",),
            ("pull.existingSecret=", "cluster.mode=watch"),
        ]:
            with self.subTest(sets):
                sets = (*sets, "registry.repository=backup", "log.level=debug")
                self.upgrade(*[part for text in sets for part in ("--set", text)])
                with running(host, *sets, kubeconfig=self.of_the_account()) as sidecar:
                    sidecar.wait_for(lambda entry: "upstream/app" in json.dumps(entry))
                    if "cluster.mode=watch" not in sets:
                        # It tells that there is no such image, and that it is there itself.
                        self.wait_for_some("events.events.k8s.io", "shop")
                        self.wait_for_some("leases.coordination.k8s.io", NAMESPACE)
                    if "pull.existingSecret=a" in sets:
                        self.assert_the_pull_secret_passes()
                self.assertNotIn("forbidden", "".join(sidecar.log).lower())
        with self.subTest("and would be, without them"):
            self.kubectl("delete", "clusterrolebinding", "image-mirror")
            with running(host, *sets, kubeconfig=self.of_the_account()) as sidecar:
                sidecar.wait_for(lambda entry: "forbidden" in json.dumps(entry).lower())
        helm("uninstall", "image-mirror", "--namespace", NAMESPACE, env=self.env)

    def assert_the_pull_secret_passes(self):
        """What the sidecar makes of a workload that names the pull Secret is what the admission policy lets pass."""
        objects = self.folder / "bread.yaml"
        objects.write_text(REWRITTEN.partition("---")[0])
        self.kubectl("apply", "--namespace", "shop", "--filename", objects)
        deadline = time.monotonic() + PATIENCE
        while ("Secret", "image-mirror-pull") not in self.objects("secrets", namespace="shop"):
            self.assertLess(time.monotonic(), deadline, "there is no pull Secret")
        made = self.objects("secrets", namespace="shop")["Secret", "image-mirror-pull"]
        policy = Policy("secrets")
        self.assertEqual(policy.refusals("CREATE", None, made), [])
        self.assertEqual(policy.refusals("UPDATE", made, made), [])
        self.assertEqual(policy.refusals("DELETE", made, None), [])

    def wait_for_some(self, kind, namespace):
        """Waits until there is an object of this kind."""
        deadline = time.monotonic() + PATIENCE
        while not self.kubectl("get", kind, "--namespace", namespace, "--output", "name"):
            self.assertLess(time.monotonic(), deadline, f"there are no {kind}")
        self.kubectl("delete", kind, "--namespace", namespace, "--all")

    def of_the_account(self):
        """A kubeconfig with the rights of the sidecar's account."""
        config = json.loads((self.folder / "kubeconfig").read_text())
        config["users"][0]["user"]["as"] = ACCOUNT
        return config
