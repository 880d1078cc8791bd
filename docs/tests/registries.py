"""Two registries on this machine under the names of public ones.

A proxy stands between them and the programs that the docs run: what is for the backup goes to one registry, everything
else to the other. So commands run as they are written, and print what is written below them.
"""

import hashlib
import http.client
import json
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from api_server import free_port

# Where the docs keep copies; every other name is upstream.
BACKUPS = {"ghcr.io/acme", "registry.example.com"}
HOSTS = ["registry-1.docker.io", "ghcr.io", "quay.io", "registry.k8s.io", "registry.example.com"]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


class Registry:
    """Debian's docker-registry, empty at first."""

    def __init__(self, folder, name):
        self.port = free_port()
        self.config = folder / f"{name}.yml"
        storage = {"filesystem": {"rootdirectory": str(folder / name)}, "delete": {"enabled": True}}
        http = {"addr": f"127.0.0.1:{self.port}"}
        self.config.write_text(
            json.dumps({"version": "0.1", "log": {"level": "error"}, "storage": storage, "http": http})
        )
        self.process = None

    def __enter__(self):
        command = ["/usr/bin/docker-registry", "serve", self.config]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.ask("GET", "/v2/")
                return self
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.05)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)

    def ask(self, method, path, body=None, headers=None):
        """Gives the status, the headers and the body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def put_blob(self, repository, content):
        """Pushes a blob; gives its digest."""
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        _, headers, _ = self.ask("POST", f"/v2/{repository}/blobs/uploads/")
        place = headers["Location"].partition(f":{self.port}")[2]
        status, _, body = self.ask("PUT", f"{place}&digest={digest}", content)
        assert status == 201, body
        return digest

    def put_manifest(self, repository, tag, kind, content):
        """Pushes a manifest by this tag, or by its digest; gives its descriptor."""
        text = json.dumps({"schemaVersion": 2, "mediaType": kind, **content}).encode()
        digest = "sha256:" + hashlib.sha256(text).hexdigest()
        status, _, body = self.ask("PUT", f"/v2/{repository}/manifests/{tag or digest}", text, {"Content-Type": kind})
        assert status == 201, body
        return {"mediaType": kind, "digest": digest, "size": len(text)}

    def put_image(self, repository, tag):
        """Pushes an image of two platforms with small layers."""
        images = []
        for architecture in ("amd64", "arm64"):
            config = json.dumps({"architecture": architecture, "os": "linux", "name": repository}).encode()
            layer = f"the layer of {repository}:{tag} for {architecture}".encode()
            parts = [
                {
                    "mediaType": f"application/vnd.oci.image.{kind}",
                    "digest": self.put_blob(repository, content),
                    "size": len(content),
                }
                for kind, content in (("config.v1+json", config), ("layer.v1.tar", layer))
            ]
            image = self.put_manifest(repository, None, MANIFEST, {"config": parts[0], "layers": parts[1:]})
            images.append({**image, "platform": {"architecture": architecture, "os": "linux"}})
        self.put_manifest(repository, tag, INDEX, {"manifests": images})


class Proxy(ThreadingHTTPServer):
    """An HTTPS proxy that opens what it is sent, with certificates of an authority in `folder`."""

    daemon_threads = True

    def __init__(self, folder, upstream, backup):
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.backup, self.authority = upstream, backup, folder / "authority.crt"
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(*certificate(folder))
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
        self.thread.join()

    def handle_error(self, request, client_address):
        # Whoever is stopped hangs up.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def registry(self, host, path):
        """The registry that has this path."""
        name = f"{host}/{path.removeprefix('/v2/')}"
        return self.backup if any(name.startswith(f"{backup}/") for backup in BACKUPS) else self.upstream


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host = None

    def do_CONNECT(self):
        self.host = self.path.partition(":")[0]
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {**self.headers, "X-Forwarded-Proto": "https"}
        registry = self.server.registry(self.host, self.path)
        status, answered, body = registry.ask(self.command, self.path, body, headers)
        self.send_response(status)
        for name, value in answered.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        length = answered["Content-Length"] if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = forward

    def finish(self):
        super().finish()
        # The server closes what it accepted, which is no more what is spoken through.
        self.connection.close()

    def log_message(self, *_):
        pass


def certificate(folder):
    """Makes an authority, and a certificate for all these hosts; gives the files of the latter and of its key."""

    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], cwd=folder, check=True, capture_output=True)

    names = ",".join(f"DNS:{host}" for host in HOSTS)
    (folder / "names").write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    openssl("req", "-x509", *key, "-keyout", "authority.key", "-out", "authority.crt", "-days", 2, "-subj", "/CN=docs")
    openssl("req", *key, "-keyout", "hosts.key", "-out", "hosts.csr", "-subj", "/CN=hosts")
    sign = ["x509", "-req", "-in", "hosts.csr", "-CA", "authority.crt", "-CAkey", "authority.key", "-CAcreateserial"]
    openssl(*sign, "-days", 2, "-extfile", "names", "-out", "hosts.crt")
    return folder / "hosts.crt", folder / "hosts.key"
