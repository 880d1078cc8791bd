"""The chart says what the other parts of this project say: rules, settings, variables, ports, figures."""

import json
import re
import unittest

import yaml

from support import CASES, CHART, ROOT, defaults, environment, only, render, source, words

REGISTRY = ("--set", "registry.host=ghcr.io", "--set", "registry.repository=acme")


def document(name):
    return yaml.safe_load((ROOT / name).read_text())


class Policy(unittest.TestCase):
    def setUp(self):
        self.policy = only(render(*REGISTRY), "ClusterAdmissionPolicy")["spec"]
        self.metadata = document("metadata.yml")

    def test_rules_are_those_of_the_published_policy(self):
        self.assertEqual(self.policy["rules"], self.metadata["rules"])

    def test_it_is_what_the_published_policy_says(self):
        for field in ("mutating", "backgroundAudit"):
            self.assertEqual(self.policy[field], self.metadata[field], field)

    def test_the_module_is_the_published_one(self):
        url = self.metadata["annotations"]["io.kubewarden.policy.ociUrl"]
        version = self.metadata["annotations"]["io.kubewarden.policy.version"]
        self.assertEqual(self.policy["module"], f"registry://{url}:v{version}")

    def test_settings_and_their_defaults_are_those_of_the_form(self):
        form = {}
        questions = document("questions-ui.yml")["questions"]
        inner = [question for outer in questions for question in outer.get("subquestions", [])]
        for question in questions + inner:
            if "subquestions" not in question:
                form[question["variable"]] = question["default"]
        flat = {}
        for key, value in self.policy["settings"].items():
            flat.update(
                {f"{key}.{inner}": item for inner, item in value.items()} if isinstance(value, dict) else {key: value}
            )
        # The chart knows where copies are.
        self.assertEqual(flat.pop("backups"), ["ghcr.io/acme"])
        self.assertEqual(form.pop("backups"), [])
        self.assertEqual(flat, form)

    def test_the_policy_knows_the_backups_and_their_secrets(self):
        former = ("--set", "policy.settings.backups={old.example.com/x}", "--set", "policy.settings.pullSecrets={former}")
        settings = only(render(*REGISTRY, *former, "--set", "pull.secretName=mine"), "ClusterAdmissionPolicy")["spec"]["settings"]
        self.assertEqual(settings["backups"], ["ghcr.io/acme", "old.example.com/x"])
        self.assertEqual(settings["pullSecrets"], ["mine", "former"])
        bare = only(render("--set", "registry.host=registry.example.com:5000"), "ClusterAdmissionPolicy")["spec"]["settings"]
        self.assertEqual(bare["backups"], ["registry.example.com:5000"])
        self.assertEqual(bare["pullSecrets"], ["image-mirror-pull"])

    def test_namespaces_that_the_policy_leaves_alone_are_not_even_asked_about(self):
        [condition] = self.policy["namespaceSelector"]["matchExpressions"]
        self.assertEqual(condition["values"], self.policy["settings"]["excludedNamespaces"])
        patterns = render(*REGISTRY, "--set", "excludeNamespaces={kube-*,infra}", namespace="elsewhere")
        policy = only(patterns, "ClusterAdmissionPolicy")["spec"]
        self.assertEqual(
            policy["settings"]["excludedNamespaces"], ["kube-*", "infra", "kube-system", "elsewhere", "kubewarden"]
        )
        self.assertEqual(
            policy["namespaceSelector"]["matchExpressions"][0]["values"],
            ["infra", "kube-system", "elsewhere", "kubewarden"],
        )
        self.assertEqual(environment(patterns)["EXCLUDE_NAMESPACES"], "kube-*,infra,kube-system,elsewhere,kubewarden")

    def test_the_policy_finds_the_sidecar_and_its_server_trusts_it(self):
        for release, namespace, flags in [
            ("image-mirror", "image-mirror", ()),
            ("a", "b", ("--set", "facade.port=5443")),
        ]:
            found = render(*REGISTRY, *flags, release=release, namespace=namespace)
            address = only(found, "ClusterAdmissionPolicy")["spec"]["settings"]["sidecar"]
            server = only(found, "PolicyServer")
            self.assertEqual(list(server["spec"]["sourceAuthorities"]), [address])
            service = only(found, "Service")
            port = service["spec"]["ports"][0]["port"]
            self.assertEqual(address, f"{service['metadata']['name']}.{namespace}.svc:{port}")
            self.assertEqual(only(found, "ClusterAdmissionPolicy")["spec"]["policyServer"], server["metadata"]["name"])
            self.assertNotIn("insecureSources", server["spec"])


class Sidecar(unittest.TestCase):
    # Not for a Pod: tests, other commands, secrets that belong into files, clusters without Kubewarden.
    UNUSED = {"INSECURE_HTTP", "SIDECAR", "REGISTRY_PASSWORD", "PULL_PASSWORD", "POLICY", "POLICY_SETTINGS"}
    # Not of the sidecar: what its HTTP client and its language read.
    OTHERS = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "RUST_BACKTRACE"}

    def setUp(self):
        self.known = words(r'env = "([A-Z_]+)"', source("mirror-sidecar/src/args.rs", "mirror-sidecar/src/args/*.rs"))
        self.used = set()
        for case in CASES:
            self.used |= set(environment(render("--values", case)))

    def test_every_variable_is_one_of_the_sidecars(self):
        self.assertEqual(self.used - self.known - self.OTHERS, set())

    def test_every_variable_of_the_sidecar_can_be_set(self):
        self.assertEqual(self.known - self.used, self.UNUSED)

    def test_defaults_are_those_of_the_sidecar(self):
        text = source("mirror-sidecar/src/args.rs", "mirror-sidecar/src/args/*.rs")
        declared = {}
        for match in re.finditer(r'env = "([A-Z_]+)"[^\]]*?default_value = "([^"]*)"', text):
            # `copy` has another number for this one.
            declared.setdefault(match[1], set()).add(match[2])
        env = environment(render(*REGISTRY))
        # In a cluster it works with the cluster.
        self.assertEqual(env.pop("KUBERNETES"), "on")
        self.assertEqual(env.pop("SHUTDOWN_DELAY"), "5s")
        compared = {name for name in declared if env.get(name) is not None} - {"REPOSITORY"}
        for name in compared:
            self.assertIn(env[name], declared[name], name)
        self.assertGreaterEqual(len(compared), 8)

    def test_ports_and_paths_are_those_of_the_sidecar(self):
        [container] = only(render(*REGISTRY), "Deployment")["spec"]["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        env = environment(render(*REGISTRY))
        self.assertEqual(env["LISTEN"], f"0.0.0.0:{ports['facade']}")
        self.assertEqual(env["ADMIN_LISTEN"], f"0.0.0.0:{ports['admin']}")
        admin = source("mirror-sidecar/src/admin.rs")
        for probe in ("livenessProbe", "readinessProbe"):
            self.assertIn(f'"{container[probe]["httpGet"]["path"]}"', admin)
        self.assertIn('"/metrics"', admin)


class Rights(unittest.TestCase):
    def rules(self, *flags):
        found = render(*REGISTRY, *flags)
        return {
            kind: found[kind, "image-mirror"]["rules"]
            for kind in ("ClusterRole", "Role")
            if (kind, "image-mirror") in found
        }

    def files(self):
        return {
            kind: document(f"charts/image-mirror/files/{file}-rules.yaml")
            for kind, file in [("ClusterRole", "cluster"), ("Role", "namespace")]
        }

    def test_they_are_those_of_the_files(self):
        self.assertEqual(self.rules("--set", "pull.existingSecret=a"), self.files())

    def test_a_second_registration_of_the_webhook_is_the_users_choice(self):
        flags = ("--set", "policy.reinvocation=true", "--set", "admissionPolicies.enabled=true")
        names = {"admissionregistration.k8s.io"}

        def webhook_rules(*flags):
            return [rule for rule in self.rules(*flags)["ClusterRole"] if names & set(rule["apiGroups"])]

        self.assertEqual(webhook_rules(), [])
        self.assertEqual(webhook_rules(*flags), document("charts/image-mirror/files/reinvocation-rules.yaml"))
        for policy in ("image-mirror", "p"):
            found = render(*REGISTRY, *flags, "--set", f"policy.name={policy}")
            self.assertEqual(environment(found)["REINVOKE_POLICY"], policy)
            # Without webhooks: helm leaves those alone that the sidecar writes.
            self.assertNotIn("webhooks", found["MutatingWebhookConfiguration", f"zz-{policy}-reinvocation"])
            rules = found["ClusterRole", "image-mirror"]["rules"]
            written = [rule["resourceNames"] for rule in rules if names & set(rule["apiGroups"])]
            second = f"zz-{policy}-reinvocation"
            self.assertEqual(written, [[f"clusterwide-{policy}", second], [second]])
        found = render(*REGISTRY)
        self.assertNotIn("REINVOKE_POLICY", environment(found))
        self.assertNotIn("MutatingWebhookConfiguration", {kind for kind, _ in found})
        module = source("mirror-sidecar/src/cluster/reinvocation.rs")
        for name in ('"clusterwide-{policy}"', '"zz-{policy}-reinvocation"'):
            self.assertIn(name, module)

    def test_the_name_of_the_pull_secret_follows_the_value(self):
        for flags, name in [((), "image-mirror-pull"), (("--set", "pull.secretName=other"), "other")]:
            found = render(*REGISTRY, "--set", "pull.existingSecret=a", *flags)
            named = [
                rule["resourceNames"]
                for rule in found["ClusterRole", "image-mirror"]["rules"]
                if "resourceNames" in rule
            ]
            self.assertEqual(named, [[name]])
            self.assertEqual(environment(found)["PULL_SECRET"], name)

    def test_nothing_is_granted_that_the_mode_does_not_need(self):
        self.assertEqual(self.rules("--set", "cluster.mode=off"), {})
        watch = self.rules("--set", "cluster.mode=watch")
        self.assertEqual(list(watch), ["ClusterRole"])
        for rule in watch["ClusterRole"]:
            self.assertLessEqual(set(rule["verbs"]), {"get", "list", "watch"})
            self.assertNotIn("secrets", rule["resources"])
        for rule in self.rules()["ClusterRole"]:
            self.assertNotIn("secrets", rule["resources"], "without credentials for pulling no Secret is written")

    def test_secrets_of_workloads_cannot_be_read(self):
        for rule in self.files()["ClusterRole"]:
            if "secrets" in rule["resources"]:
                self.assertTrue(rule["verbs"] == ["create"] or rule.get("resourceNames") == ["image-mirror-pull"])

    def test_the_token_is_there_only_where_there_are_rights(self):
        for mode, expected in [("on", True), ("watch", True), ("off", False)]:
            pod = only(render(*REGISTRY, "--set", f"cluster.mode={mode}"), "Deployment")["spec"]["template"]["spec"]
            self.assertEqual(pod["automountServiceAccountToken"], expected)


class Figures(unittest.TestCase):
    def test_alerts_and_dashboard_use_figures_that_there_are(self):
        documented = words(r"`(image_mirror_[a-z_]+)", (ROOT / "docs/metrics.md").read_text())
        used = words(
            r"\b(image_mirror_[a-z_]+)",
            source("charts/image-mirror/files/alerts.yaml", "charts/image-mirror/files/dashboard.json"),
        )
        used = {name.removesuffix("_bucket") for name in used}
        self.assertEqual(used - documented, set())

    def test_alerts_are_rules_for_this_release(self):
        flags = ("--set", "monitoring.prometheusRule.enabled=true")
        [group] = only(render(*REGISTRY, *flags, release="a", namespace="b"), "PrometheusRule")["spec"]["groups"]
        names = [rule["alert"] for rule in group["rules"]]
        self.assertEqual(len(set(names)), len(names))
        for rule in group["rules"]:
            self.assertIn('job="a-image-mirror-sidecar",namespace="b"', rule["expr"])
            self.assertEqual(rule["expr"].count("("), rule["expr"].count(")"))
            self.assertIn(rule["labels"]["severity"], {"warning", "critical"})
            self.assertEqual(set(rule["annotations"]), {"summary", "description", "runbook"})
            self.assertNotIn("$JOB", rule["expr"])
            self.assertRegex(rule["for"], r"^[1-9][0-9]*[mh]$")

    def test_alerts_about_replicas_are_only_where_they_share_work(self):
        flags = ("--set", "monitoring.prometheusRule.enabled=true")

        def about_replicas(mode):
            rule = only(render(*REGISTRY, *flags, "--set", f"cluster.mode={mode}"), "PrometheusRule")
            [group] = rule["spec"]["groups"]
            self.assertGreaterEqual(len(group["rules"]), 8)
            return [alert for alert in group["rules"] if re.search("lease_held|replicas", alert["expr"])]

        self.assertEqual(len(about_replicas("on")), 2)
        self.assertEqual(about_replicas("watch") + about_replicas("off"), [])

    def test_the_dashboard_is_one(self):
        found = render(*REGISTRY, "--set", "monitoring.dashboard.enabled=true")
        dashboard = json.loads(only(found, "ConfigMap")["data"]["image-mirror.json"])
        panels = dashboard["panels"]
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        cells = set()
        for panel in panels:
            place = panel["gridPos"]
            own = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            self.assertFalse(cells & own, f"{panel['title']} covers another panel")
            self.assertLessEqual(place["x"] + place["w"], 24)
            cells |= own
            for target in panel["targets"]:
                self.assertIn('{namespace="$namespace"', target["expr"])


class Images(unittest.TestCase):
    def test_one_registry_serves_everything(self):
        found = render(*REGISTRY, "--set", "global.cattle.systemDefaultRegistry=reg.example.com/")
        [container] = only(found, "Deployment")["spec"]["template"]["spec"]["containers"]
        images = [
            container["image"],
            only(found, "PolicyServer")["spec"]["image"],
            only(found, "ClusterAdmissionPolicy")["spec"]["module"],
        ]
        for image in images:
            self.assertTrue(image.removeprefix("registry://").startswith("reg.example.com/"), image)
            self.assertNotIn("ghcr.io", image)

    def test_versions_agree(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        version = document("metadata.yml")["annotations"]["io.kubewarden.policy.version"]
        self.assertEqual(chart["appVersion"], f"v{version}")
        self.assertIn(f'version = "{version}"', (ROOT / "Cargo.toml").read_text())
        self.assertIn(f"mirror-sidecar:v{version}", chart["annotations"]["artifacthub.io/images"])

    def test_what_rancher_is_told(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        told = {key.partition("/")[2]: value for key, value in chart["annotations"].items() if "cattle" in key}
        self.assertEqual(told["kube-version"], chart["kubeVersion"])
        replicas, requests = defaults()["replicas"], defaults()["resources"]["requests"]
        self.assertEqual(told["requests-cpu"], f"{replicas * int(requests['cpu'].removesuffix('m'))}m")
        self.assertEqual(told["requests-memory"], f"{replicas * int(requests['memory'].removesuffix('Mi'))}Mi")
        server = only(render(*REGISTRY), "PolicyServer")
        group, version = server["apiVersion"].split("/")
        self.assertEqual(told["requires-gvr"], f"policyservers.{group}/{version}")

    def test_make_deploy_wants_the_version_that_the_policy_needs(self):
        wanted = re.search(r"^OLDEST=(.*)$", (ROOT / "charts/scripts/deploy.sh").read_text(), re.M)
        self.assertEqual(wanted[1], document("metadata.yml")["minimumKubewardenVersion"])
        chart = (CHART / "templates/_kubewarden.tpl").read_text()
        self.assertIn(f'oldestKubewarden" -}}}}\n{wanted[1]}\n', chart)

    def test_the_policy_server_is_new_enough(self):
        least = document("metadata.yml")["minimumKubewardenVersion"].split(".")
        ours = defaults()["kubewarden"]["version"].removeprefix("v").split(".")
        self.assertGreaterEqual([int(part) for part in ours], [int(part) for part in least])
