"""What is rendered: accepted by helm, by Kubernetes old and new, by Kubewarden, and as it was reviewed."""

import difflib
import functools
import json
import os
import unittest

import jsonschema
import kubernetes_validate
import yaml

from support import CASES, CHART, HERE, ROOT, decoded, environment, helm, objects, only, render_text, values

# Renders that are reviewed as a whole. `Differences` states what the other values files change.
GOLDEN = HERE / "golden"
GOLDENS = {"air-gapped.yaml", "everything.yaml", "minimal.yaml", "sidecar-only.yaml"}
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


def case_of(name):
    """The values file of this name."""
    return CHART / "ci" / f"{name}-values.yaml"


def rendered(case, version=KUBERNETES[-1]):
    """Its objects, by kind and name."""
    return objects(text_of(case, version))


def containers(found, kind):
    """The containers of the only workload of this kind."""
    return only(found, kind)["spec"]["template"]["spec"]["containers"]


def variables(found):
    """The variables of the sidecar: their text, or the name and the key of a Secret."""
    [container] = containers(found, "Deployment")
    references = {
        variable["name"]: "{name}/{key}".format(**variable["valueFrom"]["secretKeyRef"])
        for variable in container["env"]
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    return {**environment(found), **references}


def mounted(found):
    """The Secrets that the sidecar mounts, by volume, with their keys."""
    volumes = only(found, "Deployment")["spec"]["template"]["spec"]["volumes"]
    return {
        volume["name"]: (volume["secret"]["secretName"], [item["key"] for item in volume["secret"].get("items", [])])
        for volume in volumes
        if "secret" in volume
    }


def changed(now, before):
    """The entries of a map that are new or different, and `None` for those that are gone."""
    return {
        key: now.get(key)
        for key in now.keys() | before.keys()
        if (key in now, now.get(key)) != (key in before, before.get(key))
    }


def rules(found, kind):
    """Group, resource, verb and name of everything that the only role of this kind allows."""
    allowed = [item["rules"] for (its, _), item in found.items() if its == kind]
    return {
        (group, resource, verb, name)
        for role in allowed
        for rule in role
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


PULL_RIGHTS = [("create", "")] + [(verb, "$NAME") for verb in ("delete", "get", "list", "patch", "watch")]


def pull_rights(name):
    """What managing the pull Secret of this name needs."""
    return {("", "secrets", verb, its.replace("$NAME", name)) for verb, its in PULL_RIGHTS}


class Teams(unittest.TestCase):
    """Backups besides the default one."""

    def setUp(self):
        self.found = rendered(case_of("teams"))
        self.config = yaml.safe_load(self.found["ConfigMap", "mirror-sidecar-config"]["data"]["config.yaml"])

    def mounted(self, kind):
        """The keys of Secrets by the path in the container of this kind."""
        pod = only(self.found, kind)["spec"]["template"]["spec"]
        [mount] = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "logins"]
        [volume] = [volume for volume in pod["volumes"] if volume["name"] == "logins"]
        return {
            f"{mount['mountPath']}/{item['path']}": (source["secret"]["name"], item["key"])
            for source in volume["projected"]["sources"]
            for item in source["secret"]["items"]
        }

    def test_the_file_is_one_that_the_published_schema_accepts(self):
        published = json.loads((ROOT / "docs/config.schema.json").read_text())
        jsonschema.Draft7Validator.check_schema(published)
        # The default backup is defined by flags.
        jsonschema.validate(self.config, published)
        self.assertEqual(list(self.config["backups"]), ["team-a", "team-b"])
        for kind in ("Deployment", "Job"):
            [container] = containers(self.found, kind)
            paths = {variable["name"]: variable.get("value") for variable in container["env"]}
            self.assertEqual(paths["CONFIG_FILE"], "/etc/image-mirror/config/config.yaml")
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            self.assertEqual(mounts["config"], "/etc/image-mirror/config")

    def test_every_login_is_mounted_from_its_secret_and_no_password_is_in_the_file(self):
        logins = [(name, kind, its[kind]) for name, its in self.config["backups"].items() for kind in ("push", "pull")]
        logins += [(name, "pull", its["pull"]) for name, its in self.config["targets"].items()]
        secrets = {
            "harbor.example.com/hub pull": "hub-pull",
            **{f"{team} {kind}": f"{team}-{kind}" for team in ("team-a", "team-b") for kind in ("push", "pull")},
        }
        keys = {"usernameFile": "username", "passwordFile": "password", "dockerConfig": ".dockerconfigjson"}
        expected = {
            path: (secrets[f"{name} {kind}"], keys[key]) for name, kind, login in logins for key, path in login.items()
        }
        for kind in ("Deployment", "Job"):
            self.assertEqual(self.mounted(kind), expected)

    def test_the_policy_trusts_all_backups_and_names_no_other(self):
        settings = only(self.found, "ClusterAdmissionPolicy")["spec"]["settings"]
        self.assertEqual(
            settings["backups"],
            [
                "harbor.example.com/shared",
                "harbor.example.com/team-a",
                "harbor.example.com/team-b",
                "registry.example.com/team-b",
            ],
        )
        # Former locations of a team's backup are not those of the default one.
        self.assertNotIn("FORMER_BACKUPS", variables(self.found))
        told = values(case_of("teams"))
        self.assertEqual(settings["rules"], told["policy"]["settings"]["rules"])
        named = {rule["backup"] for rule in settings["rules"] if "backup" in rule}
        self.assertLessEqual(named, self.config["backups"].keys())

    def test_a_login_of_a_team_alone_needs_the_rights_for_pull_secrets(self):
        login = "backups.team-a={registry: a.example, pull: {existingSecret: a}}"
        flags = ("--set", "registry.host=ghcr.io", "--set-json")
        found = objects(render_text(*flags, as_json(login)))
        self.assertLessEqual(pull_rights("image-mirror-pull"), rules(found, "ClusterRole"))
        without = objects(render_text(*flags, as_json("backups.team-a={registry: a.example}")))
        self.assertFalse(pull_rights("image-mirror-pull") & rules(without, "ClusterRole"))
        self.assertNotIn("projected", str(only(without, "Deployment")))


def as_json(text):
    """A flag for `--set-json` from YAML."""
    path, _, value = text.partition("=")
    return f"{path}={json.dumps(yaml.safe_load(value))}"


class Differences(unittest.TestCase):
    """What values files change, compared with `minimal`, whose render is reviewed as a whole."""

    def check(self, name, new, gone, variables_of, secrets, settings, rights, also=()):
        """Fails for every difference that is not named; returns the objects."""
        found, minimal = rendered(case_of(name)), rendered(case_of("minimal"))
        self.assertEqual(found.keys() - minimal.keys(), new)
        self.assertEqual(minimal.keys() - found.keys(), gone)
        self.assertEqual(changed(variables(found), variables(minimal)), variables_of)
        self.assertEqual(changed(mounted(found), mounted(minimal)), secrets)
        policies = [only(which, "ClusterAdmissionPolicy")["spec"] for which in (found, minimal)]
        self.assertEqual(changed(*(policy["settings"] for policy in policies)), settings)
        self.assertEqual(rules(found, "ClusterRole") ^ rules(minimal, "ClusterRole"), rights)
        differ = {kind for (kind, its) in found.keys() & minimal.keys() if found[kind, its] != minimal[kind, its]}
        self.assertEqual(differ, {"ClusterAdmissionPolicy", "ClusterRole", "Deployment", "Job", *also})
        self.assertEqual(*(self.rest_of_the_deployment(which) for which in (found, minimal)))
        [container] = containers(found, "Job")
        names = {variable["name"] for variable in container["env"]}
        self.assertLessEqual({"REGISTRY", "REPOSITORY", "REGISTRY_PASSWORD_FILE"} & variables(found).keys(), names)
        deployment = {variable["name"]: variable for variable in containers(found, "Deployment")[0]["env"]}
        self.assertEqual(container["env"], [deployment[variable["name"]] for variable in container["env"]])
        return found

    def rest_of_the_deployment(self, found):
        """All of it but its variables and volumes."""
        deployment = json.loads(json.dumps(only(found, "Deployment")))
        pod = deployment["spec"]["template"]
        for part, fields in ((pod["spec"], ["volumes"]), (pod["spec"]["containers"][0], ["env", "volumeMounts"])):
            for field in fields:
                part.pop(field)
        pod["metadata"]["annotations"].pop("image-mirror.dev/facade")
        return deployment

    def test_passwords_in_the_values(self):
        names = ("mirror-sidecar-registry", "mirror-sidecar-pull")
        found = self.check(
            "passwords",
            new={("Secret", name) for name in names},
            gone=set(),
            variables_of={
                **backup("ghcr.io", "acme"),
                "REGISTRY_USERNAME": "bot",
                "PULL_SECRET": "image-mirror-pull",
                "PULL_USERNAME": "reader",
                "PULL_PASSWORD_FILE": "/etc/image-mirror/pull/password",
            },
            secrets={"registry": (names[0], ["password"]), "pull": (names[1], ["password"])},
            settings={"backups": ["ghcr.io/acme"]},
            rights=pull_rights("image-mirror-pull"),
        )
        self.assertEqual(
            [decoded(found["Secret", name]) for name in names],
            [
                {"username": "bot", "password": "not-a-real-one"},
                {"username": "reader", "password": "not-a-real-one-either"},
            ],
        )

    def test_cert_manager_signs_with_the_authority_of_the_chart(self):
        secret = "mirror-sidecar-cert-manager-4bc0dd3c"
        found = self.check(
            "cert-manager",
            new={("Secret", "mirror-sidecar-ca"), ("Issuer", "mirror-sidecar"), ("Certificate", "mirror-sidecar")},
            gone={("Secret", "mirror-sidecar-tls")},
            variables_of={
                **backup("quay.io", "acme"),
                "REGISTRY_USERNAME": "backup-push/username",
                "PULL_SECRET": "image-mirror-pull",
                "PULL_DOCKER_CONFIG_FILE": "/etc/image-mirror/pull/config.json",
            },
            secrets={
                "registry": ("backup-push", ["password"]),
                "pull": ("backup-pull", [".dockerconfigjson"]),
                "tls": (secret, ["tls.crt", "tls.key"]),
            },
            settings={"backups": ["quay.io/acme"]},
            rights=pull_rights("image-mirror-pull"),
        )
        authority = found["Secret", "mirror-sidecar-ca"]
        self.assertEqual(authority["metadata"]["annotations"]["image-mirror.dev/generation"], "1")
        trusted = values(case_of("cert-manager"))["tls"]
        self.assertEqual(
            {key: text.strip() for key, text in decoded(authority).items()},
            {"tls.crt": trusted["ca"].strip(), "tls.key": trusted["caKey"].strip()},
        )
        self.assertEqual(only(found, "Issuer")["spec"], {"ca": {"secretName": "mirror-sidecar-ca"}})
        self.assertEqual(
            only(found, "Certificate")["spec"],
            certificate(secret, "2160h", "720h", {"name": "mirror-sidecar", "kind": "Issuer"}),
        )

    def test_an_issuer_of_cert_manager_signs(self):
        found = self.check(
            "cert-manager-issuer",
            new={("Certificate", "mirror-sidecar")},
            gone={("Secret", "mirror-sidecar-tls")},
            variables_of={
                **backup("harbor.example.com", "backup"),
                "REGISTRY_USERNAME": "backup-push/username",
                "PULL_SECRET": "image-mirror-pull",
                "PULL_USERNAME": "backup-push/username",
                "PULL_PASSWORD_FILE": "/etc/image-mirror/pull/password",
            },
            secrets={
                "registry": ("backup-push", ["password"]),
                "pull": ("backup-push", ["password"]),
                "tls": ("mirror-sidecar-cert-manager", ["tls.crt", "tls.key"]),
            },
            settings={"backups": ["harbor.example.com/backup"]},
            rights=pull_rights("image-mirror-pull"),
        )
        issuer = {"name": "internal", "kind": "ClusterIssuer", "group": "cert-manager.io"}
        self.assertEqual(
            only(found, "Certificate")["spec"], certificate("mirror-sidecar-cert-manager", "720h", "240h", issuer)
        )

    def test_existing_secrets(self):
        found = self.check(
            "existing-secrets",
            new=set(),
            gone={
                ("Secret", "image-mirror-policy-server"),
                ("Secret", "mirror-sidecar-tls"),
                ("Secret", "mirror-sidecar-facade"),
            },
            variables_of={
                **backup("ghcr.io", "acme"),
                "REGISTRY_USERNAME": "backup-push/username",
                "DOCKER_CONFIG_FILE": "/etc/image-mirror/docker/config.json",
                "FACADE_USERNAME": "facade/username",
                "PULL_SECRET": "backup-pull-secret",
                "PULL_USERNAME": "backup-pull/username",
                "PULL_PASSWORD_FILE": "/etc/image-mirror/pull/password",
            },
            secrets={
                "registry": ("backup-push", ["password"]),
                "pull": ("backup-pull", ["password"]),
                "docker": ("upstream-registries", [".dockerconfigjson"]),
                "facade": ("facade", ["password"]),
                "tls": ("mirror-sidecar-certificate", ["tls.crt", "tls.key"]),
            },
            settings={"backups": ["ghcr.io/acme"], "pullSecrets": ["backup-pull-secret"]},
            rights=pull_rights("backup-pull-secret"),
            also=["PolicyServer"],
        )
        servers = [only(which, "PolicyServer")["spec"] for which in (found, rendered(case_of("minimal")))]
        self.assertEqual(changed(*servers), {"imagePullSecret": "facade-docker-config"})
        self.assertNotIn("Secret", {kind for kind, _ in found})

    def test_pods_only(self):
        removed = ["POD_NAME", "POD_NAMESPACE", "POD_IP", "READMIT", "READMIT_PER_MINUTE"]
        found = self.check(
            "pods-only",
            new=set(),
            gone={("Role", "image-mirror"), ("RoleBinding", "image-mirror")},
            variables_of={
                "REGISTRY": "registry.example.com",
                "REPOSITORY": "mirror",
                "NAMING": "nested",
                "KUBERNETES": "watch",
                "ON_MOVED_TAG": "keep",
                "RECHECK_INTERVAL": "30m",
                "PULL_SECRET": "pull-from-backup",
                **dict.fromkeys(removed),
            },
            secrets={},
            settings={
                "backups": ["registry.example.com/mirror"],
                "images": {"exclude": ["docker.io/acme/*"], "include": ["docker.io/*", "*:latest"]},
                "pinDigest": True,
                "pullSecrets": ["pull-from-backup"],
                "timeBudgetMs": 5000,
                "whenNotMirrored": "reject",
                "whenUnavailable": "reject",
            },
            rights={
                ("", "replicationcontrollers", "patch", ""),
                *(
                    ("apps", resource, "patch", "")
                    for resource in ("daemonsets", "deployments", "replicasets", "statefulsets")
                ),
                ("batch", "cronjobs", "patch", ""),
                ("events.k8s.io", "events", "create", ""),
                ("events.k8s.io", "events", "patch", ""),
            },
        )
        self.assertEqual(removed, [name for name in removed if name not in variables(found)])
        policies = [only(which, "ClusterAdmissionPolicy")["spec"] for which in (found, rendered(case_of("minimal")))]
        expected = {"failurePolicy": "Fail", "objectSelector": {"matchLabels": {"tier": "web"}}}
        difference = changed(*policies)
        self.assertEqual(difference.keys(), {"namespaceSelector", "rules", "settings", *expected})
        self.assertLessEqual(expected.items(), difference.items())
        selector = policies[1]["namespaceSelector"]["matchExpressions"]
        strict = {"key": "image-mirror.example.com/strict", "operator": "Exists"}
        self.assertEqual(difference["namespaceSelector"], {"matchExpressions": [*selector, strict]})
        operations = ["CREATE", "UPDATE"]
        self.assertEqual(
            difference["rules"],
            [
                {
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "resources": ["pods", "pods/ephemeralcontainers"],
                    "operations": operations,
                },
                {
                    "apiGroups": ["apps.kruise.io"],
                    "apiVersions": ["v1alpha1"],
                    "resources": ["clonesets"],
                    "operations": operations,
                },
            ],
        )


def backup(host, repository):
    """The variables of a backup that needs a login."""
    file = "/etc/image-mirror/registry/password"
    return {"REGISTRY": host, "REPOSITORY": repository, "REGISTRY_PASSWORD_FILE": file}


def certificate(secret, duration, renew_before, issuer):
    """The certificate of the sidecar as cert-manager is asked for it."""
    service = "mirror-sidecar.image-mirror"
    return {
        "secretName": secret,
        "commonName": f"{service}.svc",
        "dnsNames": [f"{service}.svc", f"{service}.svc.cluster.local", service],
        "duration": duration,
        "renewBefore": renew_before,
        "privateKey": {"algorithm": "ECDSA", "rotationPolicy": "Always"},
        "usages": ["server auth"],
        "issuerRef": issuer,
    }


class Rendered(unittest.TestCase):
    def test_there_are_enough_cases(self):
        self.assertGreaterEqual(len(CASES), 6)

    @for_each_case
    def test_lint(self, case):
        helm("lint", "--strict", "--quiet", CHART, "--values", case)

    def test_is_as_it_was_reviewed(self):
        self.assertEqual({path.name for path in GOLDEN.iterdir()}, GOLDENS)
        for name in sorted(GOLDENS):
            golden, text = GOLDEN / name, text_of(case_of(name.removesuffix(".yaml")))
            if os.environ.get("ACCEPT"):
                golden.write_text(text)
            lines = difflib.unified_diff(
                golden.read_text().splitlines(), text.splitlines(), golden.name, "now", lineterm=""
            )
            difference = "\n".join(lines)
            with self.subTest(name):
                self.assertEqual(difference, "", f"ACCEPT=1 accepts this:\n{difference}")

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
        volumes = only(found, "Deployment")["spec"]["template"]["spec"]["volumes"]
        names = [volume.get("secret", {}).get("secretName") for volume in volumes]
        for volume in volumes:
            names += [source["secret"]["name"] for source in volume.get("projected", {}).get("sources", [])]
        for name in names:
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
