"""The ValidatingAdmissionPolicies, evaluated by Google's CEL: what the sidecar does passes, and what it must not do is refused.

The re-admissions are recorded: requests of an API server with the patches of the real policy, from the fixtures of e2e-tests.
What is around the expressions is held to its schema by test_render, and tried by test_api_server where the API server is 1.30
or newer.
"""

import copy
import json
import unittest

from admission import SIDECAR, Policy
from support import NAMESPACE, ROOT, objects, render_text

FIXTURES = ROOT / "e2e-tests" / "fixtures"
READMITTED = "image-mirror.dev/readmitted"
TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"
COPIES = "registry.example.com/acme/mirror"
# Requests with the policy's patches, of all kinds that are sent through admission again.
READMISSIONS = [
    "deployment-update-annotation",
    "deployment-update-image",
    "cronjob-update",
    "cronjob-create",
    "daemonset-create",
    "deployment-create",
    "statefulset-create",
]


def secret(**changes):
    """A pull Secret as the sidecar makes it, as the API server stores it."""
    made = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "image-mirror-pull",
            "namespace": "shop",
            "uid": "1",
            "labels": {"app.kubernetes.io/managed-by": "image-mirror"},
        },
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": "e30="},
    }
    made["metadata"].update(changes.pop("metadata", {}))
    return {**made, **changes}


class Secrets(unittest.TestCase):
    def setUp(self):
        self.policy = Policy("secrets")

    def test_what_the_sidecar_does(self):
        mended = secret(data={".dockerconfigjson": "e30K"})
        for operation, before, after in [
            ("CREATE", None, secret()),
            ("UPDATE", secret(), mended),
            ("UPDATE", secret(metadata={"finalizers": ["a/b"]}), secret(metadata={"finalizers": ["a/b"]})),
            ("UPDATE", secret(metadata={"finalizers": ["a/b"]}), secret()),
            # Ours, of a type that does not work: it is replaced.
            ("DELETE", secret(type="Opaque"), None),
            ("DELETE", mended, None),
        ]:
            self.assertEqual(self.policy.refusals(operation, before, after), [], operation)

    def test_what_it_must_not_do(self):
        no_label, other = {"labels": {}}, {"labels": {"app.kubernetes.io/managed-by": "Helm"}}
        for words, operation, before, after in [
            ("no Secret but", "CREATE", None, secret(metadata={"name": "token"})),
            ("no Secret but", "CREATE", None, secret(metadata={"name": "image-mirror-pull2"})),
            ("type", "CREATE", None, secret(type="kubernetes.io/service-account-token")),
            ("type", "CREATE", None, secret(type="Opaque")),
            ("label", "CREATE", None, secret(metadata=no_label)),
            ("label", "CREATE", None, secret(metadata=other)),
            ("label", "UPDATE", secret(metadata=no_label), secret()),
            ("label", "UPDATE", secret(), secret(metadata=other)),
            ("label", "DELETE", secret(metadata=other), None),
            ("no Secret but", "DELETE", secret(metadata={"name": "app"}), None),
            ("no Secret but", "UPDATE", secret(), secret(metadata={"name": "app"})),
            ("no Secret but", "CREATE", None, secret(metadata={"name": "Image-Mirror-Pull"})),
            ("label", "CREATE", None, secret(metadata={"labels": {"app.kubernetes.io/managed-by": "image-mirror2"}})),
            ("type", "UPDATE", secret(), secret(type="kubernetes.io/dockercfg")),
            ("finalizers", "CREATE", None, secret(metadata={"finalizers": ["a/b"]})),
            ("finalizers", "UPDATE", secret(), secret(metadata={"finalizers": ["a/b"]})),
            ("finalizers", "UPDATE", secret(metadata={"finalizers": ["a/b"]}), secret(metadata={"finalizers": ["c"]})),
            ("finalizers", "CREATE", None, secret(metadata={"ownerReferences": [{"uid": "1"}]})),
        ]:
            refusals = self.policy.refusals(operation, before, after)
            self.assertEqual(len(refusals), 1, (words, operation, after))
            self.assertIn(words, refusals[0])

    def test_a_name_and_labels_that_are_not_there_are_no_way_around(self):
        nameless = secret()
        del nameless["metadata"]["name"], nameless["metadata"]["labels"]
        self.assertEqual(len(self.policy.refusals("CREATE", None, nameless)), 2)

    def test_nobody_else_is_looked_at(self):
        for user in ["admin", f"system:serviceaccount:{NAMESPACE}:default", "system:serviceaccount:a:mirror-sidecar"]:
            self.assertIsNone(self.policy.refusals("CREATE", None, secret(type="Opaque"), user=user))

    def test_former_names_are_kept(self):
        policy = Policy("secrets", "--set", "policy.settings.pullSecrets={before}")
        for name, refused in [("before", False), ("image-mirror-pull", False), ("before2", True)]:
            named = secret(metadata={"name": name})
            for operation, old, new in [("CREATE", None, named), ("UPDATE", named, named), ("DELETE", named, None)]:
                self.assertEqual(bool(policy.refusals(operation, old, new)), refused, (name, operation))

    def test_other_names_are_those_of_the_values(self):
        policy = Policy("secrets", "--set", "pull.secretName=mine", "--set", "serviceAccount.name=other")
        user = f"system:serviceaccount:{NAMESPACE}:other"
        self.assertEqual(policy.refusals("CREATE", None, secret(metadata={"name": "mine"}), user=user), [])
        self.assertEqual(len(policy.refusals("CREATE", None, secret(), user=user)), 1)


def patched(item, operations):
    """The object after a JSON patch (RFC 6902), as far as the policy makes them."""
    item = copy.deepcopy(item)
    for operation in operations:
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        target = item
        for part in path:
            target = target[int(part) if isinstance(target, list) else part]
        if isinstance(target, list) and operation["op"] == "add":
            target.insert(int(last), operation["value"])
        elif isinstance(target, list):
            target[int(last)] = operation["value"]
        elif operation["op"] in ("add", "replace"):
            target[last] = operation["value"]
        else:
            raise AssertionError(operation)
    return item


def readmission(name):
    """Kind, and the workload before and after the sidecar's patch and the policy's."""
    request = json.loads((FIXTURES / "admission" / f"{name}.json").read_text())["request"]
    response = json.loads((FIXTURES / "expected" / f"{name}.json").read_text())
    before = request["object"]
    annotated = copy.deepcopy(before)
    annotated["metadata"].setdefault("annotations", {})[READMITTED] = "2026-01-01T00:00:00Z"
    annotated["metadata"]["generation"] = before["metadata"].get("generation", 1) + 1
    annotated["metadata"]["managedFields"] = [{"manager": "mirror-sidecar"}]
    if request["kind"]["kind"] == "DaemonSet":
        # apps/v1 keeps spec.templateGeneration of a DaemonSet there, and a change of the template raises it.
        before["metadata"].setdefault("annotations", {})[TEMPLATE_GENERATION] = "1"
        annotated["metadata"]["annotations"][TEMPLATE_GENERATION] = "2"
    assert response["patch"], name
    return request["kind"]["kind"], before, patched(annotated, response["patch"])


def template(item):
    spec = item["spec"]
    return spec["jobTemplate"]["spec"]["template"] if "jobTemplate" in spec else spec["template"]


class Workloads(unittest.TestCase):
    def setUp(self):
        self.policy = Policy("workloads")

    def refusals(self, kind, before, after):
        return self.policy.refusals("UPDATE", before, after, kind=kind)

    def test_what_the_sidecar_and_the_policy_do(self):
        images = 0
        for name in READMISSIONS:
            kind, before, after = readmission(name)
            with self.subTest(name):
                self.assertEqual(self.refusals(kind, before, after), [])
                # Once more, now that it is rewritten and has its note and its Secret.
                again = copy.deepcopy(after)
                again["metadata"]["annotations"][READMITTED] = "2026-01-02T00:00:00Z"
                self.assertEqual(self.refusals(kind, after, again), [])
                images += json.dumps(after).count("registry.example.com/acme/mirror/")
        self.assertGreater(images, 20)
        self.assertEqual({readmission(name)[0] for name in READMISSIONS} >= {"Deployment", "CronJob"}, True)

    def test_the_annotation_alone(self):
        for name in READMISSIONS:
            kind, before, _ = readmission(name)
            after = copy.deepcopy(before)
            after["metadata"].setdefault("annotations", {})[READMITTED] = "now"
            self.assertEqual(self.refusals(kind, before, after), [])

    def changes(self):
        """What is done to a rewritten workload, and a word of the refusal."""

        def container(**fields):
            return lambda item: template(item)["spec"]["containers"][0].update(fields)

        def pod(**fields):
            return lambda item: template(item)["spec"].update(fields)

        def metadata(**fields):
            return lambda item: item["metadata"].update(fields)

        def annotation(**fields):
            return lambda item: item["metadata"]["annotations"].update(fields)

        evil = "evil.example/miner:1"
        return [
            ("containers to copies", container(image=evil)),
            ("nothing else of containers", container(command=["sh"])),
            ("nothing else of containers", container(securityContext={"privileged": True})),
            ("nothing else of containers", container(name="other")),
            (
                "nothing else of containers",
                lambda item: template(item)["spec"]["containers"].append({"name": "more", "image": evil}),
            ),
            ("nothing else of init containers", pod(initContainers=[{"name": "more", "image": evil}] * 9)),
            ("nothing else there", pod(serviceAccountName="admin")),
            ("nothing else there", pod(hostNetwork=True)),
            ("nothing else there", pod(fieldOfTheFuture={"a": 1})),
            ("nothing else there", lambda item: template(item)["spec"].pop("restartPolicy")),
            ("nothing else there", lambda item: template(item)["metadata"].setdefault("labels", {}).update(a="b")),
            (
                "nothing else there",
                lambda item: template(item)["metadata"].setdefault("annotations", {}).update(inject="yes"),
            ),
            ("volumes to copies", pod(volumes=[{"name": "root", "hostPath": {"path": "/"}}] * 3)),
            ("no pull Secret", pod(imagePullSecrets=[{"name": "other"}])),
            ("outside of the Pod template", lambda item: item["spec"].update(replicas=0, suspend=True)),
            ("outside of the Pod template", lambda item: item["spec"].update(fieldOfTheFuture=1)),
            ("no metadata", metadata(labels={"a": "b"})),
            ("no metadata", metadata(ownerReferences=[{"uid": "1"}])),
            ("no metadata", metadata(finalizers=["a/b"])),
            ("no metadata", metadata(fieldOfTheFuture="1")),
            ("no metadata", annotation(other="1")),
            ("no metadata", annotation(**{READMITTED + "2": "1"})),
            ("no metadata", annotation(**{"deployment.kubernetes.io/revision": "99"})),
            ("no metadata", annotation(**{READMITTED: "a" * 65})),
        ]

    def test_what_it_must_not_do(self):
        for name in READMISSIONS:
            kind, before, after = readmission(name)
            for words, change in self.changes():
                changed = copy.deepcopy(after)
                change(changed)
                refusals = self.refusals(kind, before, changed)
                with self.subTest(name=name, words=words):
                    self.assertEqual(len(refusals), 1, refusals)
                    self.assertIn(words, refusals[0])

    def test_the_template_generation_is_that_of_daemon_sets_alone(self):
        """An API server changes it there, and nowhere else."""
        for name in READMISSIONS:
            kind, before, after = readmission(name)
            after["metadata"]["annotations"][TEMPLATE_GENERATION] = "7"
            with self.subTest(name):
                self.assertEqual(len(self.refusals(kind, before, after)), 0 if kind == "DaemonSet" else 1)

    def test_only_references_of_copies_are_copies(self):
        """Every other text is refused, in all places of images; `..` is what some registries resolve."""
        digest = "sha256:" + "0123456789abcdef" * 4
        copies = [
            f"{COPIES}/docker.io-library-nginx:1.27",
            f"{COPIES}/ghcr.io-a--b-c@{digest}",
            f"{COPIES}/localhost_5000-app:v1@{digest}",
            f"{COPIES}/docker.io/library/nginx:1.27",
            f"{COPIES}/ghcr.io__0123-x:_Aa.-",
            f"{COPIES}/a@sha384:{'0' * 96}",
            f"{COPIES}/a@sha512:{'0' * 128}",
        ]
        others = [
            "",
            COPIES,
            f"{COPIES}/",
            f"{COPIES}:1",
            f"{COPIES}@{digest}",
            f"{COPIES}2/a:1",
            f"{COPIES}-evil/a:1",
            f"{COPIES}/a",
            f"{COPIES}/a:",
            f"{COPIES}/a@",
            f"{COPIES}/:1",
            f"{COPIES}//a:1",
            f"{COPIES}/a//b:1",
            f"{COPIES}/a/:1",
            f"{COPIES}/./a:1",
            f"{COPIES}/../a:1",
            f"{COPIES}/../../evil/x:1",
            f"{COPIES}/a/../../../evil/x:1",
            f"{COPIES}/a/..:1",
            f"{COPIES}/..a:1",
            f"{COPIES}/a..b:1",
            f"{COPIES}/a___b:1",
            f"{COPIES}/-a:1",
            f"{COPIES}/a-:1",
            f"{COPIES}/%2e%2e/%2e%2e/evil/x:1",
            f"{COPIES}/..%2f..%2fevil:1",
            f"{COPIES}/A:1",
            f"{COPIES}/a:1:2",
            f"{COPIES}/a:.1",
            f"{COPIES}/a:{'1' * 129}",
            f"{COPIES}/a:1@sha256:abc",
            f"{COPIES}/a@{digest}0",
            f"{COPIES}/a@{digest.upper()}",
            f"{COPIES}/a@md5:{'0' * 32}",
            f"{COPIES}/a@{digest}@{digest}",
            f"{COPIES}/a@evil.example/x:1",
            f"{COPIES}/a?x:1",
            f"{COPIES}/a#x:1",
            f"{COPIES}/a\\..\\evil:1",
            f"{COPIES}/a:1\n",
            f"{COPIES}/a:1\nevil.example/x:1",
            f"\n{COPIES}/a:1",
            f" {COPIES}/a:1",
            f"{COPIES}/a:1 ",
            f"{COPIES}/a :1",
            f"{COPIES}/a\u0000:1",
            f"{COPIES}/\u0430:1",
            f"https://{COPIES}/a:1",
            f"user@{COPIES}/a:1",
            f"evil.example/{COPIES}/a:1",
            f"evil.example/x:1#{COPIES}/a:1",
            "registry.example.com/acme/a:1",
            "registry.example.com/acme/mirror_/a:1",
            "registryXexample.com/acme/mirror/a:1",
            "registry.example.com:443/acme/mirror/a:1",
            "registry.example.com.evil/acme/mirror/a:1",
            "REGISTRY.example.com/acme/mirror/a:1",
        ]
        kind, before, after = readmission("deployment-update-annotation")
        before_spec, spec = template(before)["spec"], template(after)["spec"]
        before_spec["initContainers"] = [{"name": "setup", "image": "busybox:1"}]
        spec["initContainers"] = [{"name": "setup", "image": "busybox:1"}]
        for images, passes in [(copies, True), (others, False)]:
            for image in images:
                for place, field in [
                    (spec["containers"][0], "image"),
                    (spec["initContainers"][0], "image"),
                    (spec["volumes"][0]["image"], "reference"),
                ]:
                    kept, place[field] = place[field], image
                    with self.subTest(image=image, field=field):
                        self.assertEqual(self.refusals(kind, before, after) == [], passes)
                    place[field] = kept

    def test_the_secret_of_the_copies_has_one_name(self):
        kind, before, after = readmission("deployment-update-annotation")
        for change in [
            [{"name": "image-mirror-pull2"}],
            [{"name": "image-mirror"}],
            [{"name": "IMAGE-MIRROR-PULL"}],
            [{"name": ""}],
            [{}],
            [{"name": "image-mirror-pull"}, {"name": "other"}],
        ]:
            template(after)["spec"]["imagePullSecrets"] = change
            self.assertEqual(len(self.refusals(kind, before, after)), 1, change)
        template(before)["spec"]["imagePullSecrets"] = [{"name": "theirs"}]
        template(after)["spec"]["imagePullSecrets"] = [{"name": "image-mirror-pull"}]
        self.assertEqual(len(self.refusals(kind, before, after)), 1)
        template(after)["spec"]["imagePullSecrets"] = [{"name": "theirs"}, {"name": "image-mirror-pull"}]
        self.assertEqual(self.refusals(kind, before, after), [])

    def test_a_former_name_gives_way_to_the_present_one(self):
        policy = Policy("workloads", "--set", "policy.settings.pullSecrets={before}")
        kind, before, after = readmission("deployment-update-annotation")
        template(before)["spec"]["imagePullSecrets"] = [{"name": "theirs"}, {"name": "before"}]
        template(after)["spec"]["imagePullSecrets"] = [{"name": "theirs"}, {"name": "image-mirror-pull"}]
        self.assertEqual(policy.refusals("UPDATE", before, after, kind=kind), [])
        self.assertEqual(len(self.refusals(kind, before, after)), 1, "where it is not known")

    def test_everything_stays_in_its_place(self):
        kind, before, _ = readmission("deployment-update-annotation")
        spec = template(before)["spec"]
        setup, check = {"name": "setup", "image": "a"}, {"name": "check", "image": "b"}
        main, other = {"name": "main", "image": "c"}, {"name": "other", "image": "d"}
        config, cache = {"name": "config", "emptyDir": {}}, {"name": "cache", "emptyDir": {"medium": "Memory"}}
        spec.update(initContainers=[setup, check], containers=[main, other], volumes=[config, cache])
        for words, change in [
            ("init containers to copies", {"initContainers": [check, setup]}),
            ("of containers to copies", {"containers": [other, main]}),
            ("volumes to copies", {"volumes": [cache, config]}),
            ("containers to copies", {"initContainers": [setup, main], "containers": [check, other]}),
        ]:
            after = copy.deepcopy(before)
            template(after)["spec"].update(change)
            refusals = self.refusals(kind, before, after)
            with self.subTest(change):
                self.assertTrue(refusals)
                self.assertTrue(all("to copies" in refusal for refusal in refusals), refusals)
                self.assertIn(words, refusals[0])

    def test_volumes_become_nothing_but_copies(self):
        kind, before, after = readmission("deployment-update-annotation")
        [volume] = template(after)["spec"]["volumes"]
        self.assertIn("registry.example.com/acme/mirror/", volume["image"]["reference"])
        for change in [{"image": {**volume["image"], "reference": "evil.example/a:1"}}, {"hostPath": {"path": "/"}}]:
            changed = copy.deepcopy(after)
            template(changed)["spec"]["volumes"][0].update(change)
            self.assertEqual(len(self.refusals(kind, before, changed)), 1, change)
        changed = copy.deepcopy(after)
        del template(changed)["spec"]["volumes"][0]["image"]
        template(changed)["spec"]["volumes"][0]["hostPath"] = {"path": "/"}
        self.assertEqual(len(self.refusals(kind, before, changed)), 1)

    def test_parts_of_cron_jobs_around_the_template(self):
        kind, before, after = readmission("cronjob-update")
        for change in [
            lambda spec: spec.update(schedule="59 23 31 12 *"),
            lambda spec: spec["jobTemplate"].update(metadata={"labels": {"a": "b"}}),
            lambda spec: spec["jobTemplate"]["spec"].update(parallelism=1000),
        ]:
            changed = copy.deepcopy(after)
            change(changed["spec"])
            [refusal] = self.refusals(kind, before, changed)
            self.assertIn("outside of the Pod template", refusal)

    def test_the_names_of_copies_are_those_of_the_values(self):
        for flags, copies in [
            (("--set", "registry.repository="), "registry.example.com/a:1"),
            (("--set", "registry.host=registry-1.docker.io,registry.repository=acme"), "docker.io/acme/a:1"),
            (("--set", "registry.host=index.docker.io,registry.repository=acme"), "docker.io/acme/a:1"),
            (("--set", "registry.host=registry.example.com:5000"), "registry.example.com:5000/acme/mirror/a:1"),
        ]:
            policy = Policy("workloads", *flags)
            kind, before, _ = readmission("daemonset-create")
            after = copy.deepcopy(before)
            template(after)["spec"]["containers"][0]["image"] = copies
            self.assertEqual(policy.refusals("UPDATE", before, after, kind=kind), [])
            template(after)["spec"]["containers"][0]["image"] = "registry.example.com.evil/a:1"
            self.assertEqual(len(policy.refusals("UPDATE", before, after, kind=kind)), 1)


class Namespaces(unittest.TestCase):
    """Nothing is written in excluded namespaces, whatever roles say."""

    LEASES = {"group": "coordination.k8s.io", "version": "v1", "resource": "leases"}
    EVENTS = {"group": "events.k8s.io", "version": "v1", "resource": "events"}
    SECRETS = {"group": "", "version": "v1", "resource": "secrets"}
    DAEMON_SETS = {"group": "apps", "version": "v1", "resource": "daemonsets"}
    PODS = {"group": "", "version": "v1", "resource": "pods"}

    def refused(self, policy, namespace, resource, operation="UPDATE", name="image-mirror-pull", **fields):
        if namespace is not None:
            fields["namespace"] = namespace
        refusals = policy.refusals(operation, {}, {}, resource=resource, name=name, **fields)
        return None if refusals is None else any("excluded namespaces" in refusal for refusal in refusals)

    def test_writes_of_all_kinds(self):
        policy = Policy("namespaces")
        resources = [self.LEASES, self.EVENTS, self.SECRETS, self.DAEMON_SETS, self.PODS]
        for namespace in ["kube-system", "kubewarden", "local-path-storage", NAMESPACE]:
            for resource in resources:
                for operation in ["CREATE", "UPDATE", "DELETE", "CONNECT"]:
                    own = (namespace, resource) == (NAMESPACE, self.LEASES)
                    login = resource is self.SECRETS and operation == "UPDATE" and namespace == "local-path-storage"
                    with self.subTest(namespace=namespace, resource=resource, operation=operation):
                        self.assertEqual(self.refused(policy, namespace, resource, operation), not (own or login))
        for namespace in ["shop", "kube-system2", "kube", "kube-public", "default", None]:
            for resource in resources:
                self.assertFalse(self.refused(policy, namespace, resource, "CREATE"), namespace)

    def test_what_is_nearly_an_exception(self):
        policy = Policy("namespaces", "--set", "excludeNamespaces={default,infra}")
        for resource in [
            {**self.LEASES, "group": ""},
            {**self.LEASES, "resource": "leasecandidates"},
            {**self.SECRETS, "group": "example.com"},
        ]:
            self.assertTrue(self.refused(policy, NAMESPACE, resource), resource)
        self.assertTrue(self.refused(policy, "infra", self.LEASES))
        self.assertTrue(self.refused(policy, "infra", self.EVENTS))
        self.assertFalse(self.refused(policy, "default", self.EVENTS), "of what is in no namespace")
        self.assertTrue(self.refused(policy, "default", self.DAEMON_SETS))
        self.assertTrue(self.refused(policy, "infra", self.SECRETS, name="other"))
        self.assertFalse(self.refused(policy, "infra", self.SECRETS), "a login that Pods there pull with")
        policy = Policy("namespaces", "--set", "excludeNamespaces={infra}", "--set", "pull.existingSecret=")
        self.assertTrue(self.refused(policy, "infra", self.SECRETS), "without credentials no Secret is written")

    def test_patterns(self):
        policy = Policy("namespaces", "--set", "excludeNamespaces={kube-*,infra}")
        cases = [("kube-public", True), ("kube-", True), ("kube", False), ("infra", True), ("infra2", False)]
        for namespace, excluded in cases:
            self.assertEqual(bool(self.refused(policy, namespace, self.DAEMON_SETS)), excluded, namespace)
        self.assertTrue(self.refused(Policy("namespaces", "--set", "excludeNamespaces={*}"), "shop", self.DAEMON_SETS))

    def test_a_selector_asks_for_excluded_namespaces_only(self):
        """It must never leave out one: selectors know no patterns."""
        def selector(*flags):
            return Policy("namespaces", *flags).spec["matchConstraints"].get("namespaceSelector")

        [expression] = selector()["matchExpressions"]
        self.assertEqual(expression["values"], ["kube-system", "local-path-storage", NAMESPACE, "kubewarden"])
        self.assertIsNone(selector("--set", "excludeNamespaces={kube-*}"))

    def test_all_other_accounts_are_left_alone(self):
        policy = Policy("namespaces")
        for user in [
            "admin",
            f"{SIDECAR}2",
            f"system:serviceaccount:{NAMESPACE}2:mirror-sidecar",
            "system:serviceaccount:other:mirror-sidecar",
            f"system:serviceaccount:{NAMESPACE}:mirror",
            f"system:serviceaccounts:{NAMESPACE}",
            SIDECAR.upper(),
            "",
        ]:
            self.assertIsNone(self.refused(policy, "kube-system", self.DAEMON_SETS, user=user), user)
        self.assertIsNone(policy.refusals("UPDATE", {}, {}, resource=self.PODS, userInfo={}))


def webhook(**changes):
    """The policy's webhook as the sidecar registers it a second time."""
    service = {"namespace": "kubewarden", "name": "policy-server-image-mirror", "path": "/validate/clusterwide-image-mirror"}
    made = {
        "name": "image-mirror.kubewarden.admission",
        "clientConfig": {"caBundle": "Y2E=", "service": {**service, "port": 443}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
        "reinvocationPolicy": "IfNeeded",
    }
    made["clientConfig"]["service"].update(changes.pop("service", {}))
    made["rules"][0].update(changes.pop("rule", {}))
    return {**made, **changes}


class Webhooks(unittest.TestCase):
    NAME = "zz-image-mirror-reinvocation"
    RESOURCE = {"group": "admissionregistration.k8s.io", "resource": "mutatingwebhookconfigurations"}

    def setUp(self):
        self.policy = Policy("webhooks", "--set", "policy.reinvocation=true")

    def refusals(self, webhooks, operation="UPDATE", name=NAME, before=None, metadata=None, **fields):
        after = {"metadata": {"name": name, **(metadata or {})}, "webhooks": webhooks}
        before = before or {"metadata": {"name": name}}
        fields = {"resource": self.RESOURCE, "name": name, **fields}
        return self.policy.refusals(operation, before, after, kind="MutatingWebhookConfiguration", **fields)

    def test_what_the_sidecar_does(self):
        self.assertEqual(self.refusals([webhook()]), [])
        self.assertEqual(self.refusals([webhook(clientConfig={**webhook()["clientConfig"], "caBundle": "bmV3"})]), [])
        self.assertEqual(self.refusals([], before={"metadata": {"name": self.NAME}, "webhooks": [webhook()]}), [])
        without = {"metadata": {"name": self.NAME, "generation": 2}}
        fields = {"resource": self.RESOURCE, "name": self.NAME}
        self.assertEqual(self.policy.refusals("UPDATE", {"metadata": {"name": self.NAME}}, without, **fields), [])

    def test_what_it_must_not_do(self):
        url = {"caBundle": "Y2E=", "url": "https://evil.example/"}
        evil = [
            ("that of the policy", webhook(clientConfig=url)),
            ("that of the policy", webhook(clientConfig={**webhook()["clientConfig"], **url})),
            ("that of the policy", webhook(service={"namespace": "default"})),
            ("that of the policy", webhook(service={"name": "policy-server-default"})),
            ("that of the policy", webhook(service={"path": "/validate/clusterwide-other"})),
            ("new Pods", webhook(rule={"resources": ["secrets"]})),
            ("new Pods", webhook(rule={"resources": ["pods", "secrets"]})),
            ("new Pods", webhook(rule={"resources": ["*"]})),
            ("new Pods", webhook(rule={"apiGroups": ["*"]})),
            ("new Pods", webhook(rule={"operations": ["CREATE", "UPDATE"]})),
        ]
        for words, second in evil:
            for webhooks in ([second], [webhook(), second]):
                refusals = self.refusals(webhooks)
                with self.subTest(words=words, second=second):
                    self.assertEqual(len(refusals), 1, refusals)
                    self.assertIn(words, refusals[0])
        for fields in [
            {"operation": "CREATE"},
            {"name": "clusterwide-image-mirror"},
            {"resource": {**self.RESOURCE, "resource": "validatingwebhookconfigurations"}},
        ]:
            refusals = self.refusals([webhook()], **fields)
            self.assertEqual(len(refusals), 1, fields)
            self.assertIn("no webhook configuration but", refusals[0])
        for metadata in ({"labels": {"a": "b"}}, {"finalizers": ["a/b"]}):
            self.assertIn("no metadata", self.refusals([webhook()], metadata=metadata)[0])
        deletion = self.policy.refusals("DELETE", {"metadata": {}}, None, resource=self.RESOURCE, name=self.NAME)
        self.assertEqual(len(deletion), 1)

    def test_names_are_those_of_the_values(self):
        values = ["policy.reinvocation=true", "policy.name=p", "policyServer.name=s", "kubewarden.namespace=n"]
        self.policy = Policy("webhooks", *(part for value in values for part in ("--set", value)))
        service = {"namespace": "n", "name": "policy-server-s", "path": "/validate/clusterwide-p"}
        self.assertEqual(self.refusals([webhook(service=service)], name="zz-p-reinvocation"), [])
        self.assertEqual(len(self.refusals([webhook()])), 2)

    def test_nobody_else_is_looked_at(self):
        self.assertIsNone(self.refusals([webhook(rule={"resources": ["*"]})], user="admin"))


class WhereTheyAre(unittest.TestCase):
    def names(self, *flags):
        found = objects(render_text("--set", "registry.host=a.example", *flags))
        return sorted(name for kind, name in found if kind == "ValidatingAdmissionPolicy"), found

    def test_only_where_the_cluster_has_them(self):
        served = ("--api-versions", "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy")
        pull = ("--set", "pull.existingSecret=a")
        all_of_them = ["image-mirror-namespaces", "image-mirror-secrets", "image-mirror-workloads"]
        self.assertEqual(self.names(*pull)[0], [])
        self.assertEqual(self.names(*pull, *served)[0], all_of_them)
        self.assertEqual(self.names(*pull, "--set", "admissionPolicies.enabled=true")[0], all_of_them)
        self.assertEqual(self.names(*pull, *served, "--set", "admissionPolicies.enabled=false")[0], [])
        self.assertEqual(self.names(*pull, *served, "--set", "admissionPolicies.workloads=None")[0], all_of_them[:2])
        self.assertEqual(self.names(*served)[0], all_of_them[::2], "without credentials no Secret is written")
        self.assertEqual(self.names(*served, "--set", "cluster.mode=watch")[0], [])
        reinvocation = self.names(*pull, *served, "--set", "policy.reinvocation=true")[0]
        self.assertEqual(reinvocation, sorted([*all_of_them, "image-mirror-webhooks"]))

    def test_everything_is_refused_unless_workloads_are_to_be_audited_only(self):
        for value, action in [(None, "Deny"), ("Audit", "Audit")]:
            flags = ("--set", f"admissionPolicies.workloads={value}") if value else ()
            _, found = self.names("--set", "pull.existingSecret=a", "--set", "admissionPolicies.enabled=true", *flags)
            actions = {
                item["spec"]["policyName"]: item["spec"]["validationActions"]
                for (kind, _), item in found.items()
                if kind == "ValidatingAdmissionPolicyBinding"
            }
            denied = {"image-mirror-namespaces": ["Deny"], "image-mirror-secrets": ["Deny"]}
            self.assertEqual(actions, {**denied, "image-mirror-workloads": [action]})

    def test_the_rules_are_those_of_the_rights(self):
        """What the sidecar may patch is what is looked at."""
        _, found = self.names("--set", "pull.existingSecret=a", "--set", "admissionPolicies.enabled=true")
        patchable = {
            resource
            for rule in found["ClusterRole", "image-mirror"]["rules"]
            if "patch" in rule["verbs"] and "events" not in rule["resources"]
            for resource in rule["resources"]
        }
        rules = [
            rule
            for (kind, _), item in found.items()
            if kind == "ValidatingAdmissionPolicy" and not item["metadata"]["name"].endswith("-namespaces")
            for rule in item["spec"]["matchConstraints"]["resourceRules"]
        ]
        self.assertEqual({resource for rule in rules for resource in rule["resources"]}, patchable)
