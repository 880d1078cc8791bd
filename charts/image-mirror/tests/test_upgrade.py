"""The life of a release, by helm itself: what is generated stays, until it is asked to change."""

import base64
import hashlib
import json
import os
import ssl
import tempfile
import unittest
from pathlib import Path

from fake_cluster import FakeCluster, serve
from support import CHART, NAMESPACE, HelmError, decoded, helm, objects, only

REGISTRY = ("registry.host=ghcr.io", "registry.repository=acme")
NAME = f"mirror-sidecar.{NAMESPACE}.svc"


class Release:
    """A release in a cluster of its own."""

    def __init__(self, cluster, env):
        self.cluster, self.env = cluster, env

    def upgrade(self, *sets, flags=()):
        """Installs or upgrades, and gives the cluster's objects."""
        flags = [*flags] + [part for text in (*REGISTRY, *sets) for part in ("--set", text)]
        helm("upgrade", "--install", "image-mirror", CHART, "--namespace", NAMESPACE, *flags, env=self.env)
        return self

    def uninstall(self):
        helm("uninstall", "image-mirror", "--namespace", NAMESPACE, env=self.env)

    def secret(self, name):
        return decoded(self.cluster.get("Secret", name))

    def secrets(self):
        """All generated ones with their data."""
        names = ["mirror-sidecar-ca", "mirror-sidecar-tls", "mirror-sidecar-facade", "image-mirror-policy-server"]
        return {name: self.secret(name) for name in names}

    def restart_mark(self):
        """What restarts the Pods when it changes."""
        return self.cluster.get("Deployment", "mirror-sidecar")["spec"]["template"]["metadata"]["annotations"]

    def trusted(self):
        """The authorities that the policy server trusts, as one PEM text."""
        [authorities] = self.cluster.get("PolicyServer", "image-mirror")["spec"]["sourceAuthorities"].values()
        return authorities

    def login(self):
        """User and password with which the policy server comes."""
        [entry] = json.loads(self.secret("image-mirror-policy-server")[".dockerconfigjson"])["auths"].values()
        return tuple(base64.b64decode(entry["auth"]).decode().split(":", 1))

    def expected_login(self):
        """User and password that the sidecar expects."""
        secret = self.secret("mirror-sidecar-facade")
        return secret["username"], secret["password"]

    def age(self, name, **annotations):
        """Changes annotations of a Secret, as if it had been made at another time."""
        self.cluster.get("Secret", name)["metadata"]["annotations"].update(annotations)


def speaks(secret, authorities, name=NAME):
    """Whether who trusts these authorities accepts the certificate for this name: a TLS handshake, in memory."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
        certificate.write_text(secret["tls.crt"])
        key.write_text(secret["tls.key"])
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_context.load_cert_chain(certificate, key)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.load_verify_locations(cadata="\n".join(authorities))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError:
                return False
    return client.version() is not None


class Life(unittest.TestCase):
    def setUp(self):
        self.cluster = FakeCluster()
        kubeconfig = self.enterContext(serve(self.cluster))
        home = self.enterContext(tempfile.TemporaryDirectory())
        self.release = Release(self.cluster, {**os.environ, "HOME": home, "KUBECONFIG": str(kubeconfig)})

    def test_what_is_installed_fits_together(self):
        release = self.release.upgrade()
        self.assertEqual(release.login(), release.expected_login())
        self.assertGreaterEqual(len(release.login()[1]), 40)
        for name in (NAME, f"{NAME}.cluster.local"):
            self.assertTrue(speaks(release.secret("mirror-sidecar-tls"), release.trusted(), name))
        self.assertFalse(speaks(release.secret("mirror-sidecar-tls"), release.trusted(), "other.image-mirror.svc"))

    def test_admission_policies_come_and_go_with_the_cluster(self):
        """Where the cluster has such policies they are made, and removed with the release."""

        def policies():
            return {name for kind, name in self.cluster.names() if kind == "ValidatingAdmissionPolicy"}

        self.release.upgrade("pull.existingSecret=a")
        self.assertEqual(policies(), {"image-mirror-namespaces", "image-mirror-secrets", "image-mirror-workloads"})
        self.release.upgrade("pull.existingSecret=a", "admissionPolicies.enabled=false")
        self.assertEqual(policies(), set())
        self.cluster.types.pop("admissionregistration.k8s.io/v1")
        self.release.upgrade("pull.existingSecret=a")
        self.assertEqual(policies(), set())

    def test_an_upgrade_keeps_everything_that_was_generated(self):
        release = self.release.upgrade()
        secrets, mark, trusted = release.secrets(), release.restart_mark(), release.trusted()
        release.upgrade(
            "replicas=3",
            "log.level=debug",
            "policy.rules=pods",
            "pull.existingSecret=a",
            "additionalLabels.team=a",
            "image.tag=v0.2.0",
        )
        self.assertEqual(release.secrets(), secrets)
        self.assertEqual(release.restart_mark(), mark)
        self.assertEqual(release.trusted(), trusted)
        deployment = self.cluster.get("Deployment", "mirror-sidecar")
        self.assertEqual(deployment["spec"]["replicas"], 3, "the upgrade happened")

    def test_values_can_be_reused(self):
        """What the templates note for themselves does not become a value."""
        release = self.release.upgrade("replicas=3")
        kept = release.secrets()
        self.assertEqual(release.upgrade("log.level=debug", flags=["--reuse-values"]).secrets(), kept)
        self.assertEqual(self.cluster.get("Deployment", "mirror-sidecar")["spec"]["replicas"], 3)
        self.assertNotIn(
            "made", helm("get", "values", "image-mirror", "--namespace", NAMESPACE, "--all", env=release.env)
        )

    def test_no_upgrade_touches_an_immutable_field(self):
        """The cluster refuses those changes. All of these are one release, one after the other."""
        steps = [
            (),
            ("nodeSelector.disk=ssd", "podLabels.a=b", "serviceAccount.name=other"),
            ("cluster.mode=watch",),
            ("cluster.mode=off", "podDisruptionBudget.enabled=false", "networkPolicy.enabled=false"),
            ("tls.source=certManager",),
            (
                "tls.source=secret",
                "tls.existingSecret=mine",
                "tls.ca=-----BEGIN CERTIFICATE-----\nZg==\n-----END CERTIFICATE-----",
            ),
            ("facade.existingSecret=mine", "policyServer.imagePullSecret=mine"),
            ("registry.username=bot", "registry.password=secret", "pull.useRegistryCredentials=true"),
            ("additionalLabels.team=a",),
            (),
        ]
        for step in steps:
            with self.subTest(step):
                self.release.upgrade(*step)

    def test_what_kubewarden_would_refuse_is_refused_before_anything_changes(self):
        release = self.release.upgrade()
        for change in (
            ["policy.mode=monitor"],
            ["policyServer.name=other"],
            ["policyServer.create=false", "policyServer.name=default"],
        ):
            with self.subTest(change):
                with self.assertRaisesRegex(HelmError, "Upgrade with policy.create=false first"):
                    release.upgrade(*change, "replicas=3")
                self.assertEqual(self.cluster.get("Deployment", "mirror-sidecar")["spec"]["replicas"], 2)
                release.upgrade(*change, "policy.create=false")
                release.upgrade(*change)
                release.upgrade("policy.create=false")
                release.upgrade()
        release.upgrade("policy.create=false")
        release.upgrade("policy.mode=monitor")
        release.upgrade("policy.mode=protect")
        with self.assertRaisesRegex(HelmError, "policy image-mirror to change from protect to monitor"):
            release.upgrade("policy.mode=monitor")

    def test_the_cluster_here_refuses_changes_of_immutable_fields(self):
        self.release.upgrade()
        self.cluster.get("Deployment", "mirror-sidecar")["spec"]["selector"]["matchLabels"]["old"] = "yes"
        with self.assertRaisesRegex(HelmError, "immutable"):
            self.release.upgrade("replicas=3")

    def test_a_new_password_reaches_both_sides_and_restarts_the_sidecar(self):
        release = self.release.upgrade()
        before, mark, certificates = release.login(), release.restart_mark(), release.secret("mirror-sidecar-tls")
        release.upgrade("facade.generation=2")
        self.assertNotEqual(release.login(), before)
        self.assertEqual(release.login(), release.expected_login())
        self.assertNotEqual(release.restart_mark(), mark)
        self.assertEqual(release.secret("mirror-sidecar-tls"), certificates)
        again = release.login()
        self.assertEqual(release.upgrade("facade.generation=2").login(), again)

    def test_a_password_of_the_user_replaces_the_generated_one(self):
        release = self.release.upgrade()
        mark = release.restart_mark()
        release.upgrade("facade.password=0123456789abcdef", "facade.username=kubewarden")
        self.assertEqual(release.login(), ("kubewarden", "0123456789abcdef"))
        self.assertEqual(release.login(), release.expected_login())
        self.assertNotEqual(release.restart_mark(), mark)

    def test_nobody_who_reads_pods_can_try_out_passwords(self):
        """What restarts them is no plain hash of a password that somebody chose."""
        marks = []
        for namespace in (NAMESPACE, "other"):
            flags = ["--set", "registry.host=ghcr.io", "--set", "facade.password=0123456789abcdef"]
            found = objects(helm("template", "image-mirror", CHART, "--namespace", namespace, *flags))
            marks.append(
                only(found, "Deployment")["spec"]["template"]["metadata"]["annotations"]["image-mirror.dev/facade"]
            )
        self.assertNotEqual(*marks, "there is salt in it")
        plain = hashlib.sha256(b"policy-server:0123456789abcdef:1").hexdigest()[:16]
        self.assertNotIn(plain, marks)

    def test_a_new_authority_is_trusted_before_it_signs(self):
        release = self.release.upgrade()
        first, first_trust, mark = release.secret("mirror-sidecar-tls"), release.trusted(), release.restart_mark()
        release.upgrade("tls.generation=2")
        between, both = release.secret("mirror-sidecar-tls"), release.trusted()
        self.assertEqual(len(both), 2)
        self.assertNotEqual(between["tls.crt"], first["tls.crt"])
        for secret in (first, between):
            for trust in (first_trust, both):
                self.assertTrue(speaks(secret, trust), "some replicas are old, some new, on both sides")
        release.upgrade("tls.generation=2")
        second = release.secret("mirror-sidecar-tls")
        self.assertTrue(speaks(second, both))
        self.assertFalse(speaks(second, first_trust), "the new authority signs")
        self.assertEqual(release.trusted(), both, "and the policy server needs no restart for that")
        self.assertEqual(release.restart_mark(), mark, "certificates are read again without a restart")
        kept = release.secrets()
        self.assertEqual(release.upgrade("tls.generation=2").secrets(), kept)
        release.upgrade("tls.generation=3")
        self.assertFalse(speaks(first, release.trusted()), "the first authority is forgotten")
        self.assertTrue(speaks(second, release.trusted()))

    def test_one_change_of_the_authority_after_the_other_cuts_nothing(self):
        release = self.release.upgrade()
        for generation in (2, 3, 4):
            secret, trust = release.secret("mirror-sidecar-tls"), release.trusted()
            release.upgrade(f"tls.generation={generation}")
            self.assertTrue(speaks(secret, release.trusted()), generation)
            self.assertTrue(speaks(release.secret("mirror-sidecar-tls"), trust), generation)
            self.assertTrue(speaks(release.secret("mirror-sidecar-tls"), release.trusted()), generation)

    def test_what_is_old_is_renewed_by_the_next_upgrade(self):
        release = self.release.upgrade()
        old = release.secrets()
        for name in ("mirror-sidecar-ca", "mirror-sidecar-tls"):
            release.age(name, **{"image-mirror.dev/renew-after": "2999-12-31"})
        self.assertEqual(release.upgrade().secrets(), old)
        release.age("mirror-sidecar-ca", **{"image-mirror.dev/renew-after": "2001-01-01"})
        release.upgrade()
        self.assertNotEqual(release.secret("mirror-sidecar-ca")["tls.crt"], old["mirror-sidecar-ca"]["tls.crt"])
        self.assertTrue(speaks(release.secret("mirror-sidecar-tls"), release.trusted()))
        self.assertTrue(speaks(old["mirror-sidecar-tls"], release.trusted()))
        self.assertEqual(release.login(), release.expected_login())

    def own_authority(self):
        """Flags with an authority, as a user has one."""
        other = FakeCluster()
        with serve(other) as kubeconfig:
            made = Release(other, {**self.release.env, "KUBECONFIG": str(kubeconfig)}).upgrade()
        secret = made.secret("mirror-sidecar-ca")
        return secret["tls.crt"].strip(), (f"tls.ca={secret['tls.crt']}", f"tls.caKey={secret['tls.key']}")

    def test_an_authority_of_the_user_signs(self):
        theirs, own = self.own_authority()
        release = self.release.upgrade(*own)
        self.assertTrue(speaks(release.secret("mirror-sidecar-tls"), [theirs]))
        kept = release.secrets()
        self.assertEqual(release.upgrade(*own).secrets(), kept)

    def test_what_an_authority_of_the_user_signed_is_renewed(self):
        _, own = self.own_authority()
        release = self.release.upgrade(*own)
        first = release.secret("mirror-sidecar-tls")["tls.crt"]
        release.age("mirror-sidecar-tls", **{"image-mirror.dev/renew-after": "2001-01-01"})
        second = release.upgrade(*own).secret("mirror-sidecar-tls")["tls.crt"]
        self.assertNotEqual(second, first)
        self.assertEqual(release.upgrade(*own).secret("mirror-sidecar-tls")["tls.crt"], second)
        third = release.upgrade(*own, "tls.generation=2").secret("mirror-sidecar-tls")["tls.crt"]
        self.assertNotEqual(third, second)
        self.assertEqual(release.upgrade(*own, "tls.generation=2").secret("mirror-sidecar-tls")["tls.crt"], third)

    def test_from_the_charts_authority_to_the_users_and_back(self):
        theirs, own = self.own_authority()
        release = self.release.upgrade()
        steps = [
            (*own,),
            (*own,),
            (*own, "tls.generation=2"),
            ("tls.generation=2",),
            ("tls.generation=2",),
            ("tls.generation=3",),
        ]
        trusts = [[text.strip() for text in release.trusted()]]
        for step in steps:
            secret, trust = release.secret("mirror-sidecar-tls"), release.trusted()
            release.upgrade(*step)
            self.assertTrue(speaks(secret, release.trusted()))
            self.assertTrue(speaks(release.secret("mirror-sidecar-tls"), trust))
            trusts.append([text.strip() for text in release.trusted()])
        [first] = trusts[0]
        self.assertEqual(trusts[1:4], [[theirs, first], [theirs, first], [theirs]])
        second = trusts[4][0]
        self.assertNotIn(second, (first, theirs), "without the key the chart makes an authority of its own")
        self.assertEqual(trusts[4:6], [[second, theirs], [second, theirs]])
        self.assertNotIn(theirs, trusts[6])
        self.assertIn(
            "image-mirror.dev/renew-after", self.cluster.get("Secret", "mirror-sidecar-ca")["metadata"]["annotations"]
        )

    def test_a_generation_may_be_a_date(self):
        """Helm reads numbers on the command line as whole ones, and those of the last release as floating ones."""
        release = self.release.upgrade("tls.generation=20260101", "facade.generation=20260101")
        release.upgrade("tls.generation=20260101", "facade.generation=20260101")
        secrets, mark = release.secrets(), release.restart_mark()
        self.assertEqual(release.upgrade(flags=["--reuse-values"]).secrets(), secrets)
        self.assertEqual(release.restart_mark(), mark)

    def test_cert_manager_signs_with_the_authority_that_is_trusted(self):
        release = self.release.upgrade("tls.source=certManager")
        issuer = self.cluster.get("Issuer", "mirror-sidecar")["spec"]["ca"]["secretName"]
        self.assertEqual([release.secret(issuer)["tls.crt"].strip()], [text.strip() for text in release.trusted()])
        kept = release.trusted()
        self.assertEqual(release.upgrade("tls.source=certManager", "replicas=3").trusted(), kept)
        self.assertIsNone(self.cluster.get("Secret", "mirror-sidecar-tls"))
        certificate = self.cluster.get("Certificate", "mirror-sidecar")["spec"]
        self.assertIn(NAME, certificate["dnsNames"])

    def test_cert_manager_signs_anew_when_the_new_authority_is_trusted(self):
        """It does for another Secret only, which the Pods must mount."""
        release = self.release

        def step(generation):
            release.upgrade("tls.source=certManager", f"tls.generation={generation}")
            name = self.cluster.get("Certificate", "mirror-sidecar")["spec"]["secretName"]
            volumes = self.cluster.get("Deployment", "mirror-sidecar")["spec"]["template"]["spec"]["volumes"]
            self.assertIn(name, [volume.get("secret", {}).get("secretName") for volume in volumes])
            return name, [text.strip() for text in release.trusted()]

        names, trusts = zip(*(step(generation) for generation in (1, 1, 2, 2, 2, 3, 4)), strict=True)
        [one] = trusts[0]
        two, three = trusts[2][0], trusts[5][0]
        self.assertEqual(trusts[:6], ([one], [one], [two, one], [two, one], [two, one], [three, two]))
        self.assertEqual(names[:3], (names[0],) * 3, "the old authority signs while the new one spreads")
        self.assertNotEqual(names[3], names[0])
        self.assertEqual(names[3:6], (names[3],) * 3)
        self.assertIn(two, trusts[6], "who signed until now stays trusted")

    def test_nothing_stays_but_what_is_not_ours(self):
        self.release.upgrade("registry.username=bot", "registry.password=secret", "pull.existingSecret=a")
        self.cluster.answer(
            "POST",
            "/api/v1/namespaces/shop/secrets",
            {},
            {"kind": "Secret", "metadata": {"name": "image-mirror-pull"}, "data": {}},
        )
        self.release.uninstall()
        self.assertEqual(self.cluster.names(), {("Secret", "image-mirror-pull")})

    def test_without_kubewarden_helm_says_what_is_missing(self):
        self.cluster.types.pop("policies.kubewarden.io/v1")
        # A real server has the schemas of what it knows; the one here has none at all.
        with self.assertRaisesRegex(HelmError, "policies.kubewarden.io"):
            self.release.upgrade(flags=["--disable-openapi-validation"])
        self.assertEqual(self.cluster.names(), set())
