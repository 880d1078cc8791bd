"""Runs the real sidecar as a Pod of the chart would: with its variables and files."""

import base64
import json
import os
import queue
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from support import NAMESPACE, decoded, only, render

SIDECAR = os.environ.get("MIRROR_SIDECAR_BIN")
# Seconds: what takes this long in a debug build on a busy machine will never come.
PATIENCE = 60
# The files of the ConfigMap with authorities that a values file names.
CERTIFICATES = ["root.crt", "issuing.crt"]
# A cluster that does not answer is waited for.
NOWHERE = {
    "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "c", "user": {}}],
    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    "current-context": "c",
}


class Registry(BaseHTTPRequestHandler):
    """An empty registry, for the sidecar to find its backup."""

    def do_GET(self):
        found = self.path == "/v2/"
        body = b"{}" if found else b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@contextmanager
def registry():
    """Runs an empty registry; gives its host."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def pod_environment(found, others, folder):
    """The variables of the container; its files go below `folder`. `others` is what is in Secrets of other people."""
    pod = only(found, "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    secrets = {name: decoded(item) for (kind, name), item in found.items() if kind == "Secret"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    for volume in pod["volumes"]:
        place = folder / mounts[volume["name"]].lstrip("/")
        place.mkdir(parents=True)
        if volume["name"] == "config":
            for file, text in found["ConfigMap", volume["configMap"]["name"]]["data"].items():
                (place / file).write_text(text.replace("/etc/image-mirror", f"{folder}/etc/image-mirror"))
            continue
        if "projected" in volume:
            for source in volume["projected"]["sources"]:
                for item in source["secret"]["items"]:
                    (place / item["path"]).parent.mkdir(parents=True, exist_ok=True)
                    (place / item["path"]).write_text(others[item["key"]])
            continue
        if "configMap" in volume:
            for file in CERTIFICATES:
                (place / file).write_text(secrets["mirror-sidecar-tls"]["ca.crt"])
            continue
        if "items" not in volume["secret"]:
            # A client certificate, as cert-manager makes it.
            for file, text in secrets["mirror-sidecar-tls"].items():
                (place / file).write_text(text)
            continue
        for item in volume["secret"]["items"]:
            secret = secrets.get(volume["secret"]["secretName"], others)
            (place / item["path"]).write_text(secret[item["key"]])
    env = {}
    for variable in container["env"]:
        if "value" in variable:
            env[variable["name"]] = variable["value"].replace("/etc/image-mirror", f"{folder}/etc/image-mirror")
        elif "secretKeyRef" in variable["valueFrom"]:
            reference = variable["valueFrom"]["secretKeyRef"]
            env[variable["name"]] = secrets.get(reference["name"], others)[reference["key"]]
        else:
            fields = {"metadata.name": "sidecar-0", "metadata.namespace": NAMESPACE, "status.podIP": "127.0.0.1"}
            env[variable["name"]] = fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
    return env, container["args"]


class Sidecar:
    """A running sidecar: the render that it was started from, and what it says."""

    def __init__(self, found, process):
        self.found, self.process = found, process
        self.lines, self.log = queue.Queue(), []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stderr:
            self.log.append(line)
            self.lines.put(line)
        self.lines.put(None)

    def address(self, what):
        """The port that it says it listens on."""
        return int(
            self.wait_for(lambda entry: entry.get("message") == f"{what} is listening")["address"].rpartition(":")[2]
        )

    def wait_for(self, is_it):
        """The next thing it says of which this is true."""
        while line := self.lines.get(timeout=PATIENCE):
            if line.startswith("{"):
                entry = json.loads(line)
                entry = entry.get("fields", entry)
                if is_it(entry):
                    return entry
        raise AssertionError("mirror-sidecar ended: " + "".join(self.log))

    def stop(self):
        """Ends it at once; asked politely, it would go on answering for as long as the chart says."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        self.process.stderr.close()


@contextmanager
def running(host, *sets, values=(), kubeconfig=NOWHERE):
    """Renders the chart with the registry `host` as the backup, and runs the sidecar."""
    flags = [part for file in values for part in ("--values", file)]
    flags += [part for text in (f"registry.host={host}", "log.format=json", *sets) for part in ("--set", text)]
    found = render(*flags, "--set", f"upstream.insecureRegistries={{{host}}}")
    docker_config = {"auths": {host: {"auth": base64.b64encode(b"bot:secret").decode()}}}
    others = {"username": "bot", "password": "secret", ".dockerconfigjson": json.dumps(docker_config)}
    with tempfile.TemporaryDirectory() as folder:
        env, arguments = pod_environment(found, others, Path(folder))
        Path(folder, "kubeconfig").write_text(json.dumps(kubeconfig))
        # Free ports, and not those of a Pod; everything else is as it would be.
        env.update(LISTEN="127.0.0.1:0", ADMIN_LISTEN="127.0.0.1:0", HOME=folder, KUBECONFIG=f"{folder}/kubeconfig")
        # In a Pod its client for the API server knows no proxy; with a kubeconfig it would.
        env.pop("HTTPS_PROXY", None)
        sidecar = Sidecar(found, subprocess.Popen([SIDECAR, *arguments], env=env, stderr=subprocess.PIPE, text=True))
        try:
            yield sidecar
        finally:
            sidecar.stop()
