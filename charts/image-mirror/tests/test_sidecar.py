"""The real sidecar, started as the Deployment says, with the files and variables that it would have in a Pod.

Needs mirror-sidecar in MIRROR_SIDECAR_BIN; `make test` gives it.
"""

import base64
import http.client
import json
import socket
import ssl
import time
import unittest

from real_sidecar import PATIENCE, SIDECAR, registry, running
from support import CASES, NAMESPACE, decoded, only

NAME = f"mirror-sidecar.{NAMESPACE}.svc"
# Whatever the certificate of a values file is, the one here is real.
REAL_CERTIFICATE = ("tls.source=generated", "tls.ca=", "tls.caKey=", "tls.existingSecret=", "fullnameOverride=")


def ask(port, path, trusted, auth=None):
    """What the policy server's host gets: status and challenge."""
    context = ssl.create_default_context(cadata="\n".join(trusted))
    connection = http.client.HTTPSConnection(NAME, port, context=context, timeout=PATIENCE)
    plain = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    connection.sock = context.wrap_socket(plain, server_hostname=NAME)
    connection.request("GET", path, headers={"Authorization": f"Basic {auth}"} if auth else {})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, response.headers.get("WWW-Authenticate")


def get(port, path):
    """Status and body of a page of the admin port."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body


@unittest.skipUnless(SIDECAR, "there is no mirror-sidecar: the chart was NOT tried with the real sidecar")
class RealSidecar(unittest.TestCase):
    def setUp(self):
        self.registry = self.enterContext(registry())

    def start(self, *sets):
        return self.enterContext(running(self.registry, *sets))

    def test_the_policy_server_is_let_in_with_what_the_chart_gives_it(self):
        sidecar = self.start("cluster.mode=off")
        port = sidecar.address("facade")
        [trusted] = only(sidecar.found, "PolicyServer")["spec"]["sourceAuthorities"].values()
        config = json.loads(decoded(sidecar.found["Secret", "image-mirror-policy-server"])[".dockerconfigjson"])
        [entry] = config["auths"].values()
        status, challenge = ask(port, "/v2/", trusted)
        self.assertEqual(status, 401)
        self.assertTrue(challenge.startswith("Basic "), challenge)
        self.assertEqual(ask(port, "/v2/", trusted, entry["auth"])[0], 200)
        wrong = base64.b64encode(b"policy-server:wrong").decode()
        self.assertEqual(ask(port, "/v2/tag/docker.io/library/nginx/manifests/1.27", trusted, wrong)[0], 401)

    def test_it_understands_what_every_values_file_makes_of_it(self):
        for case in CASES:
            with (
                self.subTest(case.name),
                running(self.registry, *REAL_CERTIFICATE, values=[case]) as sidecar,
            ):
                sidecar.address("facade")
                sidecar.address("admin")

    def test_backups_that_cannot_be_used_together_are_refused_at_the_start(self):
        [teams] = [case for case in CASES if case.name == "teams-values.yaml"]
        moved = "backups.team-b.repository=team-a"
        with running(self.registry, *REAL_CERTIFICATE, moved, values=[teams]) as sidecar:
            self.assertEqual(sidecar.process.wait(PATIENCE), 2)
            sidecar.reader.join(PATIENCE)
            self.assertIn("backups.team-b: harbor.example.com/team-a has the same location as backups.team-a", "".join(sidecar.log))

    def test_probes_and_figures_are_where_the_chart_says(self):
        sidecar = self.start(
            "cluster.mode=off", "registry.username=bot", "registry.password=secret", "pull.secretName=a"
        )
        port = sidecar.address("admin")
        [container] = only(sidecar.found, "Deployment")["spec"]["template"]["spec"]["containers"]
        probes = [container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")]
        for path in [*probes, "/metrics"]:
            status, body = get(port, path)
            self.assertEqual(status, 200, f"{path}: {body}")
        self.assertIn("image_mirror_build_info", body)

    def test_it_answers_while_the_cluster_forgets_it_and_ends_before_it_is_killed(self):
        sidecar = self.start("cluster.mode=off", "shutdownDelaySeconds=3", "terminationGracePeriodSeconds=13")
        facade, admin = sidecar.address("facade"), sidecar.address("admin")
        [container] = only(sidecar.found, "Deployment")["spec"]["template"]["spec"]["containers"]
        ready = container["readinessProbe"]["httpGet"]["path"]
        self.assertEqual(get(admin, ready)[0], 200)
        asked = time.monotonic()
        sidecar.process.terminate()
        while get(admin, ready)[0] == 200:
            self.assertLess(time.monotonic(), asked + 2, "it does not say that it is about to end")
        [trusted] = only(sidecar.found, "PolicyServer")["spec"]["sourceAuthorities"].values()
        self.assertEqual(ask(facade, "/v2/", trusted)[0], 401)
        self.assertEqual(sidecar.process.wait(timeout=13), 0)
        self.assertGreaterEqual(time.monotonic() - asked, 3)
