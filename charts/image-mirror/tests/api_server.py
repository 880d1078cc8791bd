"""A real API server for tests: kube-apiserver and etcd, and nothing else of a cluster.

The programs are in the folder KUBEBUILDER_ASSETS, or where e2e-tests/apiserver.sh built them. Without them whoever needs
the server is skipped, or fails where CI is set.
"""

import json
import os
import socket
import subprocess
import sys
import time
import unittest
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "image-mirror"


def assets():
    """The folder with kube-apiserver and etcd, or nothing."""
    folders = (
        [Path(os.environ["KUBEBUILDER_ASSETS"])]
        if os.environ.get("KUBEBUILDER_ASSETS")
        else sorted(CACHE.glob("kubernetes-*/"))
    )
    complete = [folder for folder in folders if (folder / "kube-apiserver").exists() and (folder / "etcd").exists()]
    return complete[-1] if complete else None


def need_assets(what):
    """Skips, or fails, where there is no API server; `what` was not done then."""
    if assets():
        return
    missing = "there is no kube-apiserver: e2e-tests/apiserver.sh builds it, or KUBEBUILDER_ASSETS names it"
    if os.environ.get("CI"):
        raise AssertionError(missing)
    print(f"SKIPPED: {what}: {missing}", file=sys.stderr)
    raise unittest.SkipTest(missing)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def definition(plural, kind):
    """The definition of one of Kubewarden's types, which accepts any fields."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": plural, "singular": kind.lower(), "kind": kind}
    spec = {"group": "policies.kubewarden.io", "scope": "Cluster", "names": names, "versions": [version]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.policies.kubewarden.io"},
        "spec": spec,
    }


class ApiServer:
    """A server that keeps everything in `folder`. `env` is for programs that speak to it."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.config = self.folder / "kubeconfig"
        self.env = {**os.environ, "HOME": str(self.folder), "KUBECONFIG": str(self.config)}
        self.processes = []

    def __enter__(self):
        try:
            self.start()
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        etcd, peer, port = free_port(), free_port(), free_port()
        key = self.folder / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        (self.folder / "tokens.csv").write_text("token,admin,1,system:masters\n")
        client = f"http://127.0.0.1:{etcd}"
        self.run(
            "etcd",
            "--data-dir",
            self.folder / "etcd",
            "--listen-client-urls",
            client,
            "--advertise-client-urls",
            client,
            "--listen-peer-urls",
            f"http://127.0.0.1:{peer}",
        )
        self.run(
            "kube-apiserver",
            f"--etcd-servers={client}",
            f"--secure-port={port}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self.folder / 'certs'}",
            "--service-account-issuer=https://localhost",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--disable-admission-plugins=ServiceAccount",
        )
        cluster = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": cluster}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
            "users": [{"name": "c", "user": {"token": "token"}}],
        }
        self.config.write_text(json.dumps(config))

    def run(self, name, *arguments):
        with (self.folder / f"{name}.log").open("w") as log:
            self.processes.append(
                subprocess.Popen([assets() / name, *map(str, arguments)], stdout=log, stderr=log, cwd=self.folder)
            )

    def wait(self):
        deadline = time.monotonic() + 60
        # Asking is the only way to know; each question waits by itself.
        ask = ["kubectl", "get", "--raw", "/readyz"]
        while subprocess.run(ask, env=self.env, capture_output=True, check=False).returncode:
            if time.monotonic() > deadline or any(process.poll() is not None for process in self.processes):
                raise AssertionError(
                    "the API server does not start: " + (self.folder / "kube-apiserver.log").read_text()[-2000:]
                )
            time.sleep(0.2)

    def stop(self):
        # What they keep goes with the folder.
        for process in reversed(self.processes):
            process.kill()
            process.wait()

    def kubectl(self, *arguments, check=True, stdin=None):
        done = subprocess.run(
            ["kubectl", *map(str, arguments)], env=self.env, capture_output=True, text=True, check=False, input=stdin
        )
        if check and done.returncode:
            raise AssertionError(done.stderr + done.stdout)
        return done.stdout

    def define_kubewarden(self):
        """Makes the types of Kubewarden that the chart uses."""
        kinds = [("policyservers", "PolicyServer"), ("clusteradmissionpolicies", "ClusterAdmissionPolicy")]
        types = self.folder / "types.json"
        types.write_text("\n---\n".join(json.dumps(definition(*kind)) for kind in kinds))
        self.kubectl("create", "--filename", types)
        self.kubectl("wait", "--for=condition=Established", "--timeout=60s", "--filename", types)
