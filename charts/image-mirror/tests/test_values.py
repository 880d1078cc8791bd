"""What may be set: the schema knows every value and nothing else, and what makes no sense is refused in plain words."""

import ipaddress
import json
import re
import subprocess
import sys
import unittest

import jsonschema
import yaml

from support import CHART, HelmError, defaults, environment, only, render, schema

REGISTRY = ("--set", "registry.host=ghcr.io")
PEM = "-----BEGIN CERTIFICATE-----\nZg==\n-----END CERTIFICATE-----\n"


def sets(**values):
    """Flags for helm; two underscores stand for a dot."""
    return [part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]


def paths(node, prefix=()):
    """The paths of all values, empty maps included."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from paths(value, (*prefix, key))
    else:
        yield prefix


def schema_paths(node, prefix=()):
    """The paths of all values that the schema knows by name."""
    if "properties" in node:
        for key, value in node["properties"].items():
            yield from schema_paths(value, (*prefix, key))
    else:
        yield prefix


class Schema(unittest.TestCase):
    def test_it_is_a_schema(self):
        jsonschema.Draft7Validator.check_schema(schema())

    def test_it_takes_the_defaults(self):
        jsonschema.validate(defaults(), schema())

    def test_it_knows_the_values_and_no_others(self):
        known = set(schema_paths(schema()))
        there = set(paths(defaults()))

        def strangers(ours, theirs):
            # A map of the user's ends sooner on one side than on the other.
            return {path for path in ours if not any(path[: len(other)] == other[: len(path)] for other in theirs)}

        self.assertEqual(strangers(there, known), set())
        self.assertEqual(strangers(known, there), {("enabled",)}, "the condition of a chart that depends on this one")

    def test_every_map_is_closed_but_those_that_are_the_users(self):
        opened = []

        def visit(node, path):
            for key, value in node.get("properties", {}).items():
                visit(value, (*path, key))
            if "properties" in node and node.get("additionalProperties") is not False:
                opened.append(".".join(path))

        visit(schema(), ())
        self.assertEqual(opened, ["global.cattle", "global"])

    def test_mistakes_are_refused_with_their_place(self):
        mistakes = [
            (sets(replicaCount=3), "replicaCount"),
            (sets(registry__hots="ghcr.io"), "hots"),
            (sets(registry__host="https://ghcr.io"), "/registry/host"),
            (sets(registry__host="ghcr.io/acme"), "/registry/host"),
            (sets(registry__naming="nest"), "/registry/naming"),
            (sets(replicas="many"), "/replicas"),
            (sets(replicas=0), "/replicas"),
            (sets(policy__failurePolicy="ignore"), "/policy/failurePolicy"),
            (sets(policy__namespaceSelector__matchLabels__a="b"), "matchLabels"),
            (sets(policy__settings__whenNotMirored="keep"), "whenNotMirored"),
            (sets(policy__settings__timeBudgetMs=20), "/policy/settings/timeBudgetMs"),
            (sets(policy__timeoutSeconds=31), "/policy/timeoutSeconds"),
            (sets(policy__module__digest="sha256:abc"), "/policy/module/digest"),
            (
                ["--set-json", "policyServer.namespacedPoliciesCapabilities=[]"],
                "/policyServer/namespacedPoliciesCapabilities",
            ),
            (["--set-json", 'excludeNamespaces=["Kube_System"]'], "/excludeNamespaces/0"),
            (["--set-json", 'policy.extraRules=[{"resources": ["clonesets"]}]'], "/policy/extraRules/0"),
            (["--set-json", 'backups.team-a={"registry": "a.b", "host": "a.b"}'], "'host'"),
            (["--set-json", 'backups.team-a={"repository": "a"}'], "'registry'"),
            (["--set-json", 'backups.Team={"registry": "a.b"}'], "'Team'"),
            (["--set-json", 'backups.default={"registry": "a.b"}'], "'default'"),
            (["--set-json", 'backups.team-a={"registry": "a.b", "push": {"password": "p"}}'], "'password'"),
            (["--set-json", 'backups.team-a={"registry": "a.b", "pull": {}}'], "/backups/team-a/pull"),
            (["--set-json", 'targets.harbor={}'], "'pull'"),
            (sets(facade__password="short"), "/facade/password"),
            (sets(facade__username="a:b"), "/facade/username"),
            (sets(tls__ca="no PEM"), "/tls/ca"),
            (sets(cluster__recheckInterval="60"), "/cluster/recheckInterval"),
            (sets(admissionPolicies__workloads="Warn"), "/admissionPolicies/workloads"),
            (sets(upstream__maxImageSize="20Kx"), "/upstream/maxImageSize"),
            (["--set-json", 'upstream.privateRegistries=["http://a"]'], "/upstream/privateRegistries/0"),
            (["--set-json", 'upstream.privateRegistries=["10.0.0.0/8/"]'], "/upstream/privateRegistries/0"),
            (sets(upstream__maxImageSize=""), "/upstream/maxImageSize"),
            (sets(cluster__recheckInterval="0h0m"), "/cluster/recheckInterval"),
            (sets(cluster__maxNewBytesPerNamespace="1Tx"), "/cluster/maxNewBytesPerNamespace"),
            (sets(cluster__maxWorkloads=10), "/cluster/maxWorkloads"),
            (sets(facade__port=8080), "/facade/port"),
            (["--set", "networkPolicy.egress.privateCidrs={10.0.0.1}"], "/networkPolicy/egress/privateCidrs/0"),
            (["--set", "networkPolicy.egress.apiServer={kubernetes/32}"], "/networkPolicy/egress/apiServer/0"),
            (sets(fullnameOverride="a.b"), "/fullnameOverride"),
            (sets(enabled="yes"), "/enabled"),
            (["--set", r"podLabels.app\.kubernetes\.io/name=a"], "'app.kubernetes.io/name'"),
            (["--set", r"additionalLabels.app\.kubernetes\.io/managed-by=a"], "'app.kubernetes.io/managed-by'"),
        ]
        for flags, place in mistakes:
            with self.subTest(place), self.assertRaises(HelmError) as caught:
                render(*REGISTRY, *flags)
            self.assertIn(place, str(caught.exception))
            self.assertIn("schema", str(caught.exception))

    def test_nothing_is_taken_away(self):
        """By `null` helm drops a default, and no value at all is mostly not what that means."""
        for path in paths(defaults()):
            name = ".".join(path)
            if path[0] in ("resources", "podSecurityContext", "securityContext", "nodeSelector", "global"):
                continue
            if path[:2] in (("policyServer", "limits"), ("policyServer", "requests")):
                continue
            if path[:3] == ("monitoring", "dashboard", "labels"):
                continue
            with self.subTest(name), self.assertRaises(jsonschema.ValidationError) as caught:
                values = defaults()
                inner = values
                for key in path[:-1]:
                    inner = inner[key]
                del inner[path[-1]]
                jsonschema.validate(values, schema())
            self.assertIn(f"'{path[-1]}' is a required property", str(caught.exception))
        for name in ("policyServer.namespacedPoliciesCapabilities", "tls.source", "policy.rules", "excludeNamespaces"):
            with self.subTest(name), self.assertRaises(HelmError) as caught:
                render(*REGISTRY, "--set", f"{name}=null")
            self.assertIn(f"missing property '{name.rpartition('.')[2]}'", str(caught.exception))

    def test_values_that_are_taken(self):
        self.assertEqual(
            environment(render(*REGISTRY, *sets(upstream__maxImageSize="1048576")))["MAX_IMAGE_SIZE"], "1048576"
        )
        self.assertEqual(environment(render(*REGISTRY, *sets(upstream__maxImageSize="512m")))["MAX_IMAGE_SIZE"], "512m")
        self.assertEqual(environment(render(*REGISTRY))["MAX_IMAGE_SIZE"], "50G")
        for no_limit in ("0", "none"):
            env = environment(render(*REGISTRY, *sets(upstream__maxImageSize=no_limit)))
            self.assertEqual(env["MAX_IMAGE_SIZE"], no_limit)
        for interval in ("90s", "1h0m", "0h30m"):
            env = environment(render(*REGISTRY, *sets(cluster__recheckInterval=interval)))
            self.assertEqual(env["RECHECK_INTERVAL"], interval)
        for size, expected in ((0, "0"), ("0", "0"), ("200G", "200G"), (1048576, "1048576")):
            env = environment(render(*REGISTRY, *sets(cluster__maxNewBytesPerNamespace=size)))
            self.assertEqual(env["MAX_NEW_BYTES_PER_NAMESPACE"], expected)
        render(*REGISTRY, *sets(enabled="true"))

    def test_security_contexts(self):
        def contexts(*flags):
            pod = only(render(*REGISTRY, *flags), "Deployment")["spec"]["template"]["spec"]
            return pod.get("securityContext"), pod["containers"][0].get("securityContext")

        pod, container = contexts()
        self.assertEqual((pod["runAsUser"], pod["fsGroup"], pod["runAsNonRoot"]), (65532, 65532, True))
        self.assertEqual((container["capabilities"], container["readOnlyRootFilesystem"]), ({"drop": ["ALL"]}, True))
        ids = ("runAsUser", "runAsGroup", "fsGroup")
        pod, _ = contexts(*sets(**{f"podSecurityContext__{name}": "null" for name in ids}))
        self.assertEqual(pod, {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}})
        pod, container = contexts(*sets(podSecurityContext__runAsUser=1000, securityContext__privileged="false"))
        self.assertEqual((pod["runAsUser"], container["privileged"]), (1000, False))

    def test_a_switch_may_be_a_word_or_what_yaml_makes_of_it(self):
        for on, off in [('"on"', '"off"'), ("true", "false")]:
            found = render(*REGISTRY, "--set-json", f"cluster.mode={on}", "--set-json", f"cluster.readmit={off}")
            env = environment(found)
            self.assertEqual((env["KUBERNETES"], env["READMIT"]), ("on", "off"))


class Sense(unittest.TestCase):
    def refused(self, words, *flags):
        with self.subTest(words), self.assertRaises(HelmError) as caught:
            render(*flags)
        self.assertIn(words, str(caught.exception))

    def test_the_registry_is_required(self):
        self.refused("registry.host is missing")

    def test_all_mistakes_are_told_at_once(self):
        with self.assertRaises(HelmError) as caught:
            render(*sets(registry__username="bot", tls__source="secret", pull__username="reader"))
        for words in [
            "registry.host is missing",
            "registry.username and registry.password",
            "pull.username and",
            "tls.existingSecret",
            "tls.ca",
        ]:
            self.assertIn(words, str(caught.exception))

    def test_what_belongs_together(self):
        cases = [
            ("registry.username and registry.password must be set together", sets(registry__username="bot")),
            ("no nested repositories", sets(registry__host="docker.io", registry__naming="nested")),
            ("no nested repositories", sets(registry__host="index.docker.io:443", registry__naming="nested")),
            ("the account alone", sets(registry__host="docker.io", registry__repository="acme/mirror")),
            (
                "no two of",
                sets(registry__host="123456789012.dkr.ecr.eu-west-1.amazonaws.com", registry__repository="a--b"),
            ),
            ("not both", sets(registry__username="bot", registry__password="p", registry__existingSecret="s")),
            ("set only one of username", sets(pull__existingSecret="a", pull__dockerConfigSecret="b")),
            ("useRegistryCredentials needs", sets(pull__useRegistryCredentials="true")),
            ("only created with cluster.mode on", sets(pull__existingSecret="a", cluster__mode="watch")),
            ("facade.existingSecret needs policyServer.imagePullSecret", sets(facade__existingSecret="a")),
            (
                "facade: set password or existingSecret",
                sets(
                    facade__existingSecret="a", facade__password="0123456789abcdef", policyServer__imagePullSecret="b"
                ),
            ),
            (
                "add the registries to that Secret",
                [
                    "--set",
                    "policyServer.imagePullSecret=a",
                    "--set-json",
                    'policyServer.registries=[{"host":"a.b","username":"c","password":"d"}]',
                ],
            ),
            ("set the PolicyServer that runs the policy", sets(policyServer__create="false")),
            ("tls.source secret needs tls.existingSecret", sets(tls__source="secret")),
            ("tls.existingSecret needs tls.source secret", sets(tls__existingSecret="a")),
            ("tls.source values needs tls.certificate", sets(tls__source="values")),
            ("needs tls.ca, the certificate authority", sets(tls__source="certManager", tls__certManager__issuerRef__name="a")),
            ("tls.caKey needs tls.ca", sets(tls__caKey="-----BEGIN PRIVATE KEY-----")),
            ("needs tls.caKey to sign", ["--set", f"tls.ca={PEM}"]),
            ("must not be greater than policy.timeoutSeconds", sets(policy__timeoutSeconds=5)),
            ("at least 10 more than shutdownDelaySeconds", sets(shutdownDelaySeconds=21)),
            (
                "dockerConfigReadsBackupHost needs upstream.dockerConfigSecret",
                sets(upstream__dockerConfigReadsBackupHost="true"),
            ),
            ("at least a second below policy.timeoutEvalSeconds", sets(policy__settings__timeBudgetMs=9500)),
            (
                "list each namespace instead of kube-*",
                [*sets(policy__failurePolicy="Fail"), "--set", "excludeNamespaces={kube-*}"],
            ),
            (
                "registry.existingSecret: mirror-sidecar-registry is",
                sets(registry__existingSecret="mirror-sidecar-registry"),
            ),
            ("pull.existingSecret: mirror-sidecar-pull is", sets(pull__existingSecret="mirror-sidecar-pull")),
            ("pull.dockerConfigSecret: mirror-sidecar-pull is", sets(pull__dockerConfigSecret="mirror-sidecar-pull")),
            (
                "facade.existingSecret: mirror-sidecar-facade is",
                sets(facade__existingSecret="mirror-sidecar-facade", policyServer__imagePullSecret="a"),
            ),
            (
                "tls.existingSecret: mirror-sidecar-tls is",
                ["--set", f"tls.ca={PEM}", *sets(tls__source="secret", tls__existingSecret="mirror-sidecar-tls")],
            ),
            (
                "policyServer.imagePullSecret: image-mirror-policy-server is",
                sets(policyServer__imagePullSecret="image-mirror-policy-server"),
            ),
            ("extraEnv: the chart sets LOG_LEVEL", ["--set-json", 'extraEnv=[{"name": "LOG_LEVEL", "value": "a"}]']),
            (
                "policyServer.env: the chart sets NO_PROXY",
                ["--set-json", 'policyServer.env=[{"name": "NO_PROXY", "value": "a"}]'],
            ),
            ("networkPolicy.egress.apiServer is missing", sets(networkPolicy__egress__enabled="true")),
            ("reinvocation needs admissionPolicies", sets(policy__reinvocation="true")),
            (
                "reinvocation needs cluster.mode on",
                sets(policy__reinvocation="true", cluster__mode="watch", admissionPolicies__enabled="true"),
            ),
            (
                "policy.settings.rules[0].backup: team-c is not in backups",
                ["--set-json", 'policy.settings.rules=[{"action": "mirror", "backup": "team-c"}]'],
            ),
            (
                "backups.one.push.existingSecret: mirror-sidecar-pull is",
                ["--set-json", 'backups.one={"registry": "a.b", "push": {"existingSecret": "mirror-sidecar-pull"}}'],
            ),
            (
                "only created with cluster.mode on",
                [
                    *sets(cluster__mode="watch"),
                    "--set-json",
                    'backups.one={"registry": "a.b", "pull": {"existingSecret": "a"}}',
                ],
            ),
            ("must be less than policyServer.replicas", sets(policyServer__minAvailable=2)),
            ("must be less than policyServer.replicas", sets(policyServer__minAvailable="100%")),
        ]
        for words, flags in cases:
            self.refused(words, *REGISTRY, *flags)

    def test_a_service_begins_with_a_letter(self):
        with self.assertRaisesRegex(HelmError, "123-image-mirror-sidecar cannot be the name of a Service"):
            render(*REGISTRY, release="123")


class Egress(unittest.TestCase):
    """The optional NetworkPolicy for what the sidecar connects to."""

    FLAGS = (
        *REGISTRY,
        *sets(networkPolicy__egress__enabled="true"),
        "--set",
        "networkPolicy.egress.apiServer={10.96.0.1/32,fd00::1/128}",
        "--set",
        "networkPolicy.egress.privateCidrs={192.168.20.0/24}",
    )

    def allows(self, rules, address, port, protocol="TCP"):
        """Whether a rule by address ranges allows this; those by selectors are left out."""
        address = ipaddress.ip_address(address)
        for rule in rules:
            ports = rule.get("ports", [{}])
            if not any(item.get("port", port) == port and item.get("protocol", protocol) == protocol for item in ports):
                continue
            for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
                left_out = (ipaddress.ip_network(text) for text in block.get("except", []))
                if address in ipaddress.ip_network(block["cidr"]) and not any(address in net for net in left_out):
                    return True
        return False

    def test_addresses(self):
        rules = render(*self.FLAGS)["NetworkPolicy", "mirror-sidecar-egress"]["spec"]["egress"]
        for address in ["8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "2a00::1"]:
            self.assertTrue(self.allows(rules, address, 443), address)
            self.assertTrue(self.allows(rules, address, 5000), address)
            self.assertFalse(self.allows(rules, address, 443, "UDP"), address)
        private = "10.0.0.1 127.0.0.1 168.63.129.16 169.254.169.254 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1"
        private += " 100.100.100.200 0.0.0.0 224.0.0.1 255.255.255.255 198.18.0.1 192.0.0.192 192.88.99.1 ::1 :: fe80::1 fc00::1 fd00:ec2::254 ff02::1"
        private += " 64:ff9b::a00:1 64:ff9b:1::1 ::ffff:10.0.0.1 ::10.0.0.1 2002:a00:1:: 2001:0:a00:1:: 2001:db8::1 fec0::1"
        for address in private.split():
            for port in (443, 5000, 6443):
                self.assertFalse(self.allows(rules, address, port), address)
        self.assertTrue(self.allows(rules, "192.168.20.7", 5000))
        for address in ("10.96.0.1", "fd00::1"):
            self.assertTrue(self.allows(rules, address, 443) and self.allows(rules, address, 6443))
            self.assertFalse(self.allows(rules, address, 10250), "the API server alone")

    def test_exceptions_are_within_their_range(self):
        """Otherwise the API server refuses the policy."""
        for rule in render(*self.FLAGS)["NetworkPolicy", "mirror-sidecar-egress"]["spec"]["egress"]:
            for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
                for text in block.get("except", []):
                    self.assertTrue(ipaddress.ip_network(text).subnet_of(ipaddress.ip_network(block["cidr"])), text)

    def test_it_is_off_and_apart_from_the_other_policy(self):
        self.assertNotIn(("NetworkPolicy", "mirror-sidecar-egress"), render(*REGISTRY))
        found = render(*self.FLAGS, *sets(networkPolicy__enabled="false"))
        policy = only(found, "NetworkPolicy")
        self.assertEqual((policy["metadata"]["name"], policy["spec"]["policyTypes"]), ("mirror-sidecar-egress", ["Egress"]))
        dns, *_ = policy["spec"]["egress"]
        self.assertEqual([(port["port"], port["protocol"]) for port in dns["ports"]], [(53, "UDP"), (53, "TCP")])

    def test_without_work_in_the_cluster_there_is_no_api_server_to_reach(self):
        flags = [*REGISTRY, *sets(networkPolicy__egress__enabled="true", cluster__mode="off")]
        policy = render(*flags)["NetworkPolicy", "mirror-sidecar-egress"]
        self.assertEqual(len(policy["spec"]["egress"]), 3)


class Names(unittest.TestCase):
    def test_what_yaml_takes_for_a_number_stays_a_name(self):
        found = render(
            *REGISTRY,
            *["--set", "fullnameOverride=mirror"],
            *[
                "--set-string",
                "pull.secretName=123,pull.existingSecret=1e3,kubewarden.namespace=2025,serviceAccount.name=0x1",
            ],
            *[
                "--set-string",
                "priorityClassName=1,policy.name=2,policyServer.name=3,policyServer.serviceAccountName=4",
            ],
            *["--set-string", "policyServer.priorityClassName=5,imagePullSecrets={6},monitoring.dashboard.namespace=7"],
            *["--set-string", "registry.existingSecret=8,upstream.dockerConfigSecret=9,upstream.caConfigMap=10"],
            *[
                "--set-string",
                "policyServer.imagePullSecret=11,facade.existingSecret=12,tls.certManager.issuerRef.name=13",
            ],
            *["--set-string", f"tls.ca={PEM},tls.source=certManager,nameOverride=14"],
            *["--set", "monitoring.dashboard.enabled=true,monitoring.serviceMonitor.enabled=true"],
            *["--set", "monitoring.prometheusRule.enabled=true,admissionPolicies.enabled=true"],
            release="123",
            namespace="2024",
        )

        def numbers(node, path=()):
            if isinstance(node, dict):
                for key, value in node.items():
                    yield from numbers(value, (*path, key))
            elif isinstance(node, list):
                for value in node:
                    yield from numbers(value, path)
            elif not isinstance(node, (str, bool, type(None))):
                yield path[-1]

        known = {"port", "containerPort", "replicas", "minAvailable", "maxUnavailable", "weight", "timeoutSeconds"}
        known |= {"timeoutEvalSeconds", "terminationGracePeriodSeconds", "periodSeconds", "timeBudgetMs"}
        known |= {"runAsUser", "runAsGroup", "fsGroup", "backoffLimit", "activeDeadlineSeconds"}
        known.add("ttlSecondsAfterFinished")
        for item in found.values():
            self.assertEqual(set(numbers(item)) - known, set(), item["kind"])

    def test_a_name_may_have_dots_where_a_service_must_not(self):
        self.assertIn(("Service", "my-release-image-mirror-sidecar"), render(*REGISTRY, release="my.release"))

    def test_another_name_leaves_the_selector_alone(self):
        """It cannot be changed in the life of a release."""
        before, after = (
            only(render(*REGISTRY, "--set", "fullnameOverride=mirror", *flags), "Deployment")["spec"]["selector"]
            for flags in ([], ["--set", "nameOverride=other"])
        )
        self.assertEqual(before, after)


class Texts(unittest.TestCase):
    def test_the_readme_is_current(self):
        script = CHART.parent / "scripts" / "readme.py"
        done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_every_value_is_in_the_readme(self):
        text = (CHART / "README.md").read_text()
        for path in paths(defaults()):
            name = [".".join(path[:length]) for length in range(1, len(path) + 1)]
            self.assertTrue(any(f"| `{part}` |" in text for part in name), ".".join(path))

    def test_what_rancher_asks_are_values_with_their_defaults(self):
        questions = yaml.safe_load((CHART / "questions.yaml").read_text())["questions"]
        questions += [inner for question in questions for inner in question.get("subquestions", [])]
        known = {".".join(path): path for path in schema_paths(schema())}
        for question in questions:
            with self.subTest(question["variable"]):
                self.assertIn(question["variable"], known)
                value, node = defaults(), schema()
                for key in known[question["variable"]]:
                    value, node = value[key], node["properties"][key]
                self.assertEqual(question.get("default", ""), value)
                if question["type"] == "enum":
                    self.assertLessEqual(set(question["options"]), set(node["enum"]))

    def notes(self, *flags):
        command = ["helm", "install", "other", CHART, "--namespace", "mirrors", "--dry-run=client", *REGISTRY, *flags]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition("\nNOTES:\n")[2]

    def test_the_notes_warn_of_what_is_not_protected(self):
        registry = sets(registry__existingSecret="a")
        shared = ["--set", "policyServer.create=false", "--set", "policyServer.name=default"]
        for words, flags, opposite in [
            ("WARNING: Pods pull with the credentials that may push", sets(pull__useRegistryCredentials="true"), []),
            ("namespacedPoliciesCapabilities", shared, []),
            ("`admissionPolicies.enabled` is false", sets(admissionPolicies__enabled="false"), sets(cluster__mode="off")),
            ("the cluster serves none", [], sets(admissionPolicies__enabled="true")),
        ]:
            with self.subTest(words):
                self.assertIn(words, self.notes(*registry, *flags))
                self.assertNotIn(words, self.notes(*registry, *opposite))

    def test_the_notes_name_what_is_there(self):
        notes = self.notes()
        found = render(*REGISTRY, release="other", namespace="mirrors")
        commands = re.findall(r"(deployment|service|clusteradmissionpolicy)/([a-z-]+)", notes)
        self.assertEqual(len(commands), 3)
        kinds = {kind.lower(): name for kind, name in found}
        for kind, name in commands:
            self.assertEqual(kinds[kind], name)
        self.assertIn("no pull Secret is created", notes)
