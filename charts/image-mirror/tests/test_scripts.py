"""What `make deploy`, `make undeploy` and `make manifests` run, with an API server that remembers."""

import json
import os
import re
import stat
import subprocess
import tempfile
import unittest
from pathlib import Path

from fake_cluster import FakeCluster, serve
from support import CHART, ROOT, decoded, environment, objects, only

SCRIPTS = CHART.parent / "scripts"
BACKUP = {
    "REGISTRY": "ghcr.io",
    "REPOSITORY": "acme",
    "REGISTRY_USERNAME": "bot",
    "REGISTRY_PASSWORD": "s3cr$`\"'\\et\u00e9",
}


DIGEST = "sha256:" + "0123456789abcdef" * 4


# Notes how it was called, and says that there are no clusters yet.
FAKE = """#!/bin/sh
echo "$(basename "$0") $*" >>"$(dirname "$0")/calls"
"""


class Scripts(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.cluster = FakeCluster()

    def run_script(self, name, *arguments, code=0, **variables):
        """Runs a script with nothing but these variables; gives what it prints on both ways."""
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            **self.no_cluster(),
            **variables,
        }
        done = subprocess.run([SCRIPTS / name, *arguments], capture_output=True, text=True, env=env, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stdout, done.stderr

    def no_cluster(self):
        """None that somebody works with."""
        return {"KUBECONFIG": str(self.folder / "none")}

    def install_kubewarden(self, image="ghcr.io/kubewarden/adm-controller/controller:v1.37.2", namespace="kubewarden"):
        for resource, _, _ in self.cluster.types["policies.kubewarden.io/v1"]:
            name = f"{resource}.policies.kubewarden.io"
            self.cluster.answer(
                "POST",
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
                {},
                {"kind": "CustomResourceDefinition", "metadata": {"name": name}},
            )
        labels = {"app.kubernetes.io/part-of": "kubewarden", "app.kubernetes.io/component": "controller"}
        spec = {"selector": {}, "template": {"spec": {"containers": [{"image": image}]}}}
        self.cluster.answer(
            "POST",
            f"/apis/apps/v1/namespaces/{namespace}/deployments",
            {},
            {"metadata": {"name": "controller", "labels": labels}, "spec": spec},
        )

    def serve(self):
        return str(self.enterContext(serve(self.cluster)))

    def test_a_dry_run_prints_the_manifests_and_needs_no_cluster(self):
        out, _ = self.run_script("deploy.sh", DRY_RUN="1", EXCLUDE_NAMESPACES="kube-system, team-*", **BACKUP)
        found = objects(out)
        env = environment(found)
        self.assertEqual((env["REGISTRY"], env["REPOSITORY"], env["REGISTRY_USERNAME"]), ("ghcr.io", "acme", "bot"))
        self.assertEqual(env["EXCLUDE_NAMESPACES"], "kube-system,team-*,image-mirror,kubewarden")
        self.assertEqual(env["PULL_SECRET"], "image-mirror-pull")

    def test_any_password_arrives_as_it_is_and_nothing_stays_behind(self):
        out, _ = self.run_script("deploy.sh", DRY_RUN="1", **BACKUP)
        self.assertEqual(
            decoded(objects(out)["Secret", "mirror-sidecar-registry"])["password"], BACKUP["REGISTRY_PASSWORD"]
        )
        self.assertEqual(
            [path for path in self.folder.rglob("*") if path.name.endswith(".json") and "values" in path.name], []
        )

    def test_it_warns_when_pods_get_the_login_that_may_push(self):
        values = self.folder / "values.yaml"
        values.write_text("pull: {existingSecret: mine}\n")
        for variables, warns in [
            ({}, True),
            ({"PULL_USERNAME": "reader", "PULL_PASSWORD": "read"}, False),
            ({"VALUES": str(values)}, False),
            ({"REGISTRY_USERNAME": "", "REGISTRY_PASSWORD": ""}, False),
        ]:
            _, err = self.run_script("deploy.sh", DRY_RUN="1", **{**BACKUP, **variables})
            with self.subTest(variables):
                self.assertEqual("WARNING: Set PULL_USERNAME and PULL_PASSWORD" in err, warns, err)
                self.assertNotIn(BACKUP["REGISTRY_PASSWORD"], err)

    def test_pods_get_the_reader_where_there_is_one(self):
        out, _ = self.run_script("deploy.sh", DRY_RUN="1", PULL_USERNAME="reader", PULL_PASSWORD="read", **BACKUP)
        self.assertEqual(environment(objects(out))["PULL_USERNAME"], "reader")

    def test_images_of_this_machine(self):
        for name, expected in [
            ("mirror-sidecar:dev", "mirror-sidecar:dev"),
            ("localhost:5001/a/b", "localhost:5001/a/b:latest"),
            ("ghcr.io/a/b:v2", "ghcr.io/a/b:v2"),
            (f"ghcr.io/a/b:v2@{DIGEST}", f"ghcr.io/a/b@{DIGEST}"),
            (f"ghcr.io/a/b@{DIGEST}", f"ghcr.io/a/b@{DIGEST}"),
        ]:
            out, _ = self.run_script("deploy.sh", DRY_RUN="1", SIDECAR_IMAGE=name, **BACKUP)
            [container] = only(objects(out), "Deployment")["spec"]["template"]["spec"]["containers"]
            self.assertEqual(container["image"], expected)

    def test_without_a_registry_it_says_how(self):
        _, err = self.run_script("deploy.sh", code=1)
        self.assertIn("make deploy REGISTRY=", err)

    def test_without_a_cluster_it_says_how_to_get_one(self):
        _, err = self.run_script("deploy.sh", code=1, **BACKUP)
        self.assertIn("make start-local-cluster", err)

    def test_without_kubewarden_nothing_is_installed(self):
        _, err = self.run_script("deploy.sh", code=1, **{**BACKUP, "KUBECONFIG": self.serve()})
        self.assertIn("has no Kubewarden", err)
        self.assertEqual(self.cluster.names(), set())

    def test_an_old_kubewarden_is_refused(self):
        self.install_kubewarden("ghcr.io/kubewarden/kubewarden-controller:v1.34.9")
        before = self.cluster.names()
        _, err = self.run_script("deploy.sh", code=1, **{**BACKUP, "KUBECONFIG": self.serve()})
        self.assertIn("1.34.9 is too old", err)
        self.assertEqual(self.cluster.names(), before)

    def test_it_installs_beside_the_kubewarden_that_is_there_and_is_removed_again(self):
        images = [
            (
                "registry.example.com/kubewarden/adm-controller/controller:v1.38.0",
                "registry.example.com/kubewarden/adm-controller/policy-server:v1.38.0",
            ),
            ("ghcr.io/kubewarden/kubewarden-controller:v1.35.2", "ghcr.io/kubewarden/policy-server:v1.35.2"),
            (f"localhost:5000/a/controller:v1.38.0@{DIGEST}", "localhost:5000/a/policy-server:v1.38.0"),
        ]
        for controller, policy_server in images:
            with self.subTest(controller):
                self.cluster = FakeCluster()
                self.install_kubewarden(controller, "cattle-kubewarden-system")
                before = self.cluster.names()
                access = {**BACKUP, "KUBECONFIG": self.serve()}
                self.run_script("deploy.sh", **access)
                self.assertEqual(self.cluster.get("PolicyServer", "image-mirror")["spec"]["image"], policy_server)
                self.assertEqual(
                    self.cluster.get("Secret", "image-mirror-policy-server")["metadata"]["namespace"],
                    "cattle-kubewarden-system",
                )
                password = self.cluster.get("Secret", "mirror-sidecar-facade")["data"]
                self.run_script("deploy.sh", **access)
                self.assertEqual(self.cluster.get("Secret", "mirror-sidecar-facade")["data"], password)
                out, _ = self.run_script("undeploy.sh", **access)
                self.assertIn("kubectl delete secrets", out)
                self.assertEqual(self.cluster.names() - before, {("Namespace", "image-mirror")})

    def test_the_policy_server_is_asked_for_where_its_name_cannot_be_told(self):
        self.install_kubewarden("registry.example.com/infra/kubewarden-ctl:v1.37.2")
        access = {**BACKUP, "KUBECONFIG": self.serve()}
        _, err = self.run_script("deploy.sh", code=1, **access)
        self.assertIn("POLICY_SERVER_IMAGE=name:1.37.2", err)
        self.run_script("deploy.sh", POLICY_SERVER_IMAGE="registry.example.com/infra/server:v1.37.2", **access)
        server = self.cluster.get("PolicyServer", "image-mirror")["spec"]
        self.assertEqual(server["image"], "registry.example.com/infra/server:v1.37.2")
        _, err = self.run_script("deploy.sh", code=1, POLICY_SERVER_IMAGE=f"a.b/c@{DIGEST}", **access)
        self.assertIn("has no tag", err)
        self.cluster.objects.clear()
        self.install_kubewarden(f"ghcr.io/kubewarden/controller@{DIGEST}")
        _, err = self.run_script("deploy.sh", **access)
        self.assertIn("does not say its version", err)

    def test_helm_and_kubectl_look_at_the_same_cluster(self):
        self.install_kubewarden()
        config = json.loads(Path(self.serve()).read_text())
        config["contexts"].append({"name": "away", "context": {"cluster": "away", "user": "fake"}})
        config["clusters"].append({"name": "away", "cluster": {"server": "http://127.0.0.1:1"}})
        config["current-context"] = "away"
        file = self.folder / "two"
        file.write_text(json.dumps(config))
        before = self.cluster.names()
        access = {**BACKUP, "KUBECONFIG": str(file)}
        self.run_script("deploy.sh", code=1, **access)
        _, err = self.run_script("deploy.sh", HELM_KUBECONTEXT="fake", **access)
        self.assertIn("Context fake", err)
        self.assertIsNotNone(self.cluster.get("Deployment", "mirror-sidecar"))
        for script in ("deploy.sh", "undeploy.sh"):
            for name in ("HELM_KUBEAPISERVER", "HELM_KUBETOKEN"):
                _, err = self.run_script(
                    script, code=1, **access, HELM_KUBECONTEXT="fake", **{name: "http://127.0.0.1:1"}
                )
                self.assertIn(f"{name} is set", err)
        self.run_script("undeploy.sh", HELM_KUBECONTEXT="fake", **access)
        self.assertEqual(self.cluster.names() - before, {("Namespace", "image-mirror")})

    def test_a_word_for_no_is_no_dry_run(self):
        for word in ("0", "false", "no"):
            _, err = self.run_script("deploy.sh", code=1, DRY_RUN=word, **BACKUP)
            self.assertIn("no cluster answers", err)

    def test_a_file_of_values_may_say_what_pods_pull_with(self):
        values = self.folder / "values.yaml"
        for text, secret in [("pull:\n  existingSecret: mine\n", "mine"), ("replicas: 3\n", "mirror-sidecar-registry")]:
            values.write_text(text)
            out, _ = self.run_script("deploy.sh", DRY_RUN="1", VALUES=str(values), **BACKUP)
            volumes = only(objects(out), "Deployment")["spec"]["template"]["spec"]["volumes"]
            self.assertEqual([item["secret"]["secretName"] for item in volumes if item["name"] == "pull"], [secret])

    def test_make_leaves_dollars_alone(self):
        """In what is given to it, and in what it finds in the environment."""
        command = ["make", "--silent", "--no-print-directory", "-C", ROOT, "deploy", "DRY_RUN=1", "REGISTRY=ghcr.io"]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.no_cluster()}
        given = {"REGISTRY_USERNAME": "robot$mirror", "REGISTRY_PASSWORD": "a$(HOME)$b$$c #d"}
        flags = [f"{name}={value}" for name, value in given.items()]
        for called, variables in [([*command, *flags], env), (command, {**env, **given})]:
            out = subprocess.run(called, capture_output=True, text=True, env=variables, check=True).stdout
            login = decoded(objects(out)["Secret", "mirror-sidecar-registry"])
            self.assertEqual(login, {"username": given["REGISTRY_USERNAME"], "password": given["REGISTRY_PASSWORD"]})

    def test_make_hands_the_variables_on(self):
        """As it is called, in either way."""
        command = ["make", "--silent", "--no-print-directory", "-C", ROOT, "deploy", "DRY_RUN=1", "REPOSITORY=acme"]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "REGISTRY": "ghcr.io", **self.no_cluster()}
        command += [f"{name}={value}" for name, value in [("REGISTRY_USERNAME", "bot"), ("REGISTRY_PASSWORD", "p")]]
        command += ["EXCLUDE_NAMESPACES=infra", "NAMESPACE=mirrors", "RELEASE=other"]
        out = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout
        found = objects(out)
        self.assertEqual(
            decoded(found["Secret", "other-image-mirror-sidecar-registry"]), {"username": "bot", "password": "p"}
        )
        env = environment(found)
        self.assertEqual((env["REGISTRY"], env["REPOSITORY"]), ("ghcr.io", "acme"))
        self.assertEqual(env["EXCLUDE_NAMESPACES"], "infra,kube-system,mirrors,kubewarden")

    def test_without_ending_anything_undeploy_tells_what_it_would_do(self):
        out, _ = self.run_script("undeploy.sh", DRY_RUN="1", RELEASE="a", NAMESPACE="b")
        self.assertEqual(out.split()[1:], ["uninstall", "a", "--namespace", "b"])

    def fakes(self):
        """Programs that only note how they are called."""
        folder = self.folder / "fakes"
        folder.mkdir()
        for name in ("kind", "kubectl", "helm"):
            (folder / name).write_text(FAKE)
            (folder / name).chmod(0o755)
        return folder

    def test_a_local_cluster(self):
        fakes = self.fakes()
        programs = {name.upper(): str(fakes / name) for name in ("kind", "kubectl", "helm")}
        for arguments, expected in [
            (
                ["start"],
                [
                    "kind get clusters",
                    "kind create cluster --name image-mirror --wait 120s",
                    "kubectl config use-context kind-image-mirror",
                    "helm upgrade --install admission-controller admission-controller --repo"
                    " https://charts.kubewarden.io --namespace kubewarden --create-namespace --wait --timeout 5m --kube-context"
                    " kind-image-mirror",
                ],
            ),
            (["load", "mirror-sidecar:dev"], ["kind load docker-image --name image-mirror mirror-sidecar:dev"]),
            (["stop"], ["kind delete cluster --name image-mirror"]),
        ]:
            with self.subTest(arguments):
                self.run_script("kind.sh", *arguments, **programs)
                self.assertEqual((fakes / "calls").read_text().splitlines(), expected)
                (fakes / "calls").unlink()

    def test_a_local_cluster_that_is_there_is_used(self):
        fakes = self.fakes()
        (fakes / "kind").write_text(FAKE + '[ "$1" = get ] && echo mine; exit 0\n')
        programs = {name.upper(): str(fakes / name) for name in ("kind", "kubectl", "helm")}
        self.run_script("kind.sh", "start", CLUSTER="mine", **programs)
        calls = (fakes / "calls").read_text()
        self.assertNotIn("create cluster", calls)
        self.assertIn("use-context kind-mine", calls)

    def test_make_brings_up_all_of_it(self):
        """`make local-deploy`: the cluster, the image, Kubewarden, and the chart with that image."""
        fakes = self.fakes()
        # The chart is rendered by the real helm; what is asked about the cluster is answered.
        (fakes / "kubectl").write_text(FAKE)
        variables = [f"{name.upper()}={fakes / name}" for name in ("kind", "kubectl", "helm")]
        variables += ["IMAGE=mirror-sidecar:dev", "REGISTRY=ghcr.io", "REPOSITORY=acme"]
        command = ["make", "--silent", "-C", ROOT, "local-deploy", *variables]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.no_cluster()}
        subprocess.run(command, capture_output=True, text=True, env=env, check=True)
        lines = (fakes / "calls").read_text().splitlines()
        calls = [line.split()[:3] for line in lines]
        steps = [
            ["kind", "create", "cluster"],
            ["helm", "upgrade", "--install"],
            ["kind", "load", "docker-image"],
            ["kubectl", "version", "--request-timeout=10s"],
            ["helm", "upgrade", "--install"],
        ]
        self.assertTrue(lines[-1].endswith(" --kube-context kind-image-mirror"), lines[-1])
        places = iter(calls)
        for step in steps:
            self.assertIn(step, places, calls)

    def test_without_kind_it_says_where_it_is(self):
        _, err = self.run_script("kind.sh", "start", code=1, KIND=str(self.folder / "none"))
        self.assertIn("kind.sigs.k8s.io", err)

    def test_manifests_stay_the_same_and_only_their_owner_may_read_them(self):
        values = self.folder / "values.yaml"
        for text in ("registry: {host: ghcr.io}", "{registry: {host: ghcr.io}, tls: {source: certManager}}"):
            with self.subTest(text):
                values.write_text(text)
                target = self.folder / f"dist{len(text)}"
                self.run_script("manifests.py", "helm", target, "mirrors", values)
                first = (target / "image-mirror.yaml").read_text()
                self.run_script("manifests.py", "helm", target, "mirrors", values)
                self.assertEqual((target / "image-mirror.yaml").read_text(), first)
                for file in target.iterdir():
                    self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)
                found = objects(first)
                self.assertIn(("Namespace", "mirrors"), found)
                self.assertIn(("Deployment", "mirror-sidecar"), found)

    def test_manifests_have_the_admission_policies_unless_the_values_say_no(self):
        """`helm template` sees no API, so `auto` would leave them out."""
        def actions(text):
            found = self.manifests(text).values()
            bindings = [item["spec"] for item in found if item["kind"] == "ValidatingAdmissionPolicyBinding"]
            return {spec["policyName"]: spec["validationActions"] for spec in bindings}

        names = ("image-mirror-namespaces", "image-mirror-secrets", "image-mirror-workloads")
        self.assertEqual(actions("pull: {existingSecret: a}"), dict.fromkeys(names, ["Deny"]))
        self.assertEqual(actions("admissionPolicies: {enabled: false}"), {})

    def manifests(self, text, namespace="mirrors"):
        """The objects, rendered again and again into the same folder."""
        values = self.folder / "values.yaml"
        values.write_text("{registry: {host: ghcr.io}, " + text + "}")
        self.run_script("manifests.py", "helm", self.folder / "dist", namespace, values)
        return objects((self.folder / "dist" / "image-mirror.yaml").read_text())

    def test_values_that_are_given_win_over_manifests_before(self):
        self.manifests("")
        found = self.manifests("facade: {password: my-own-password-1}")
        self.assertEqual(decoded(found["Secret", "mirror-sidecar-facade"])["password"], "my-own-password-1")
        self.assertNotIn("my-own-password-1", (self.folder / "dist" / "generated.json").read_text())
        self.manifests("")
        pem = "-----BEGIN CERTIFICATE-----\\nZg==\\n-----END CERTIFICATE-----"
        found = self.manifests(f'tls: {{source: secret, existingSecret: mine, ca: "{pem}"}}')
        [[authority]] = found["PolicyServer", "image-mirror"]["spec"]["sourceAuthorities"].values()
        self.assertIn("Zg==", authority)
        found = self.manifests(
            "facade: {existingSecret: a}, policyServer: {imagePullSecret: b}, tls: {source: certManager}"
        )
        self.assertIn(("Issuer", "mirror-sidecar"), found)

    def test_manifests_are_made_anew_where_they_no_longer_fit(self):
        def made(*arguments):
            found = self.manifests(*arguments)
            [facade] = [decoded(item) for (kind, name), item in found.items() if name.endswith("-facade")]
            [tls] = [
                decoded(item) for (kind, name), item in found.items() if kind == "Secret" and name.endswith("-tls")
            ]
            return facade["password"], tls["tls.crt"]

        first = made("tls: {source: generated}")
        self.assertEqual(made("replicas: 3"), first)
        second = made("facade: {generation: 2}")
        self.assertNotEqual(second[0], first[0])
        self.assertEqual(second[1], first[1])
        third = made("facade: {generation: 2}, tls: {generation: 2}")
        self.assertEqual(third[0], second[0])
        self.assertNotEqual(third[1], first[1])
        elsewhere = made("", "others")
        self.assertNotEqual(elsewhere[1], third[1])
        self.assertNotEqual(made("fullnameOverride: other", "others")[1], elsewhere[1])
        file = self.folder / "dist" / "generated.json"
        due = made("", "others")
        self.assertEqual(made("", "others"), due)
        file.write_text(re.sub(r'"renewAfter": "[0-9-]{10}"', '"renewAfter": "2001-01-01"', file.read_text()))
        renewed = made("", "others")
        self.assertEqual(renewed[0], due[0])
        self.assertNotEqual(renewed[1], due[1])

    def test_manifests_tell_what_is_wrong_with_the_values(self):
        values = self.folder / "values.yaml"
        values.write_text("{}")
        _, err = self.run_script("manifests.py", "helm", self.folder / "dist", "mirrors", values, code=1)
        self.assertIn("registry.host is missing", err)
