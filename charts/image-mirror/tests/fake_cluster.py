"""An API server that remembers objects, so that helm can install, look up and upgrade for real.

It knows the types that the chart makes, stores what it is sent, and refuses what a real one refuses in upgrades: to
change fields that are immutable. It checks nothing else; other tests do.
"""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit

import yaml

# By group and version: resource, kind, whether it is in a namespace.
TYPES = {
    "v1": [
        ("secrets", "Secret", True),
        ("services", "Service", True),
        ("serviceaccounts", "ServiceAccount", True),
        ("configmaps", "ConfigMap", True),
        ("namespaces", "Namespace", False),
    ],
    "apiextensions.k8s.io/v1": [("customresourcedefinitions", "CustomResourceDefinition", False)],
    "apps/v1": [("deployments", "Deployment", True)],
    "policy/v1": [("poddisruptionbudgets", "PodDisruptionBudget", True)],
    "networking.k8s.io/v1": [("networkpolicies", "NetworkPolicy", True)],
    "rbac.authorization.k8s.io/v1": [
        ("clusterroles", "ClusterRole", False),
        ("clusterrolebindings", "ClusterRoleBinding", False),
        ("roles", "Role", True),
        ("rolebindings", "RoleBinding", True),
    ],
    "admissionregistration.k8s.io/v1": [
        ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration", False),
        ("validatingadmissionpolicies", "ValidatingAdmissionPolicy", False),
        ("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", False),
    ],
    "policies.kubewarden.io/v1": [
        ("policyservers", "PolicyServer", False),
        ("clusteradmissionpolicies", "ClusterAdmissionPolicy", False),
    ],
    "cert-manager.io/v1": [("issuers", "Issuer", True), ("certificates", "Certificate", True)],
}
# What a real API server, or Kubewarden, does not let anybody change.
IMMUTABLE = {
    "ClusterAdmissionPolicy": lambda item: item["spec"]["policyServer"],
    "Deployment": lambda item: item["spec"]["selector"],
    "Secret": lambda item: item.get("type", "Opaque"),
    "RoleBinding": lambda item: item["roleRef"],
    "ClusterRoleBinding": lambda item: item["roleRef"],
}


class FakeCluster:
    """The objects, by the path of their collection and their name."""

    def __init__(self, without=()):
        self.types = {group: types for group, types in TYPES.items() if group not in without}
        self.objects = {}
        self.lock = threading.Lock()

    def get(self, kind, name):
        """One object, or nothing."""
        found = [item for item in self.objects.values() if (item["kind"], item["metadata"]["name"]) == (kind, name)]
        return found[0] if found else None

    def names(self):
        """Kind and name of everything but helm's own records."""
        return {
            (item["kind"], item["metadata"]["name"])
            for item in self.objects.values()
            if item.get("type") != "helm.sh/release.v1"
        }

    def discovery(self, path):
        groups = [group for group in self.types if "/" in group]
        if path == "/version":
            return {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
        if path == "/openapi/v3":
            # For each group what is needed to be told that the server checks fields by itself.
            return {
                "paths": {
                    f"apis/{group}" if "/" in group else f"api/{group}": {"serverRelativeURL": f"/openapi/v3/{group}"}
                    for group in self.types
                }
            }
        if path.startswith("/openapi/v3/"):
            return self.openapi(path.removeprefix("/openapi/v3/"))
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            entries = []
            for group in groups:
                version = {"groupVersion": group, "version": group.split("/")[1]}
                entries.append({"name": group.split("/")[0], "versions": [version], "preferredVersion": version})
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": entries}
        group = path.removeprefix("/apis/").removeprefix("/api/")
        if group in self.types:
            verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
            resources = [
                {"name": name, "singularName": "", "namespaced": inside, "kind": kind, "verbs": verbs}
                for name, kind, inside in self.types[group]
            ]
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": resources}
        return None

    def openapi(self, group):
        """A document without schemas, in which PATCH of each type has the parameter `fieldValidation`."""
        prefix = "" if "/" not in group else group.split("/")[0]
        paths = {}
        for name, kind, _ in self.types[group]:
            what = {"group": prefix, "version": group.split("/")[-1], "kind": kind}
            parameters = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]
            paths[f"/{name}/{{name}}"] = {
                "patch": {"x-kubernetes-group-version-kind": what, "parameters": parameters, "responses": {}}
            }
        return {"openapi": "3.0.0", "info": {"title": group, "version": "v1"}, "paths": paths}

    def find(self, path):
        """Group, kind, collection and name of a path; the name is empty for a collection."""
        for group, types in self.types.items():
            prefix = f"/apis/{group}" if "/" in group else f"/api/{group}"
            if not path.startswith(prefix + "/"):
                continue
            parts = path.removeprefix(prefix + "/").split("/")
            if len(parts) >= 3 and parts[0] == "namespaces":
                namespace, parts = parts[1], parts[2:]
            else:
                namespace = ""
            for name, kind, _ in types:
                if parts[0] == name:
                    return group, kind, (prefix, namespace, name), parts[1] if len(parts) > 1 else ""
        return None

    def write(self, group, kind, collection, name, item):
        before = self.objects.get((*collection, name))
        immutable = IMMUTABLE.get(kind)
        if before and immutable and immutable(before) != immutable(item):
            return 422, status(422, "Invalid", f"{kind} {name}: field is immutable")
        if before and kind == "ClusterAdmissionPolicy":
            if (before["spec"]["mode"], item["spec"]["mode"]) == ("protect", "monitor"):
                return 422, status(422, "Invalid", "field cannot transition from protect to monitor. Recreate instead.")
        item = {"apiVersion": group, "kind": kind, **item}
        item["metadata"].setdefault("uid", name)
        item["metadata"]["resourceVersion"] = str(int(before["metadata"]["resourceVersion"]) + 1 if before else 1)
        if collection[1]:
            item["metadata"]["namespace"] = collection[1]
        self.objects[(*collection, name)] = item
        return (200 if before else 201), item

    def answer(self, method, path, query, body):
        if method == "GET" and (found := self.discovery(path)):
            return 200, found
        target = self.find(path)
        if target is None:
            return 404, status(404, "NotFound", path)
        group, kind, collection, name = target
        if method == "POST":
            name = body["metadata"]["name"]
            if (*collection, name) in self.objects:
                return 409, status(409, "AlreadyExists", name)
            return self.write(group, kind, collection, name, body)
        if not name:
            wanted = dict(part.split("=", 1) for part in query.get("labelSelector", [""])[0].split(",") if "=" in part)
            prefix, namespace, resource = collection
            items = [
                item
                for (*place, _), item in self.objects.items()
                if tuple(place) in {collection, (prefix, namespace or place[1], resource)}
            ]
            items = [item for item in items if wanted.items() <= item["metadata"].get("labels", {}).items()]
            return 200, {
                "kind": f"{kind}List",
                "apiVersion": group,
                "metadata": {"resourceVersion": "1"},
                "items": items,
            }
        if method in ("PUT", "PATCH") and body is not None and "kind" in body:
            return self.write(group, kind, collection, name, body)
        if (*collection, name) not in self.objects:
            return 404, status(404, "NotFound", f"{kind} {name} not found")
        if method == "DELETE":
            self.objects.pop((*collection, name))
            return 200, status(200, "", "")
        return 200, self.objects[(*collection, name)]


def protobuf_fields(data):
    """Numbers and values of the fields of a protobuf message, as far as they are texts or messages."""

    def varint():
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    place = 0
    while place < len(data):
        number, wire = divmod(varint(), 8)
        size = varint()
        if wire == 2:
            yield number, data[place : place + size]
            place += size


def protobuf_map(entries):
    """A map of texts, whose entries are messages."""
    pairs = (dict(protobuf_fields(entry)) for entry in entries)
    return {pair[1].decode(): pair.get(2, b"") for pair in pairs}


def read(body):
    """An object as it was sent. Helm sends its own records, which are Secrets, as protobuf (the envelope is
    k8s.io/apimachinery's runtime.Unknown, the fields are those of k8s.io/api/core/v1)."""
    if not body.startswith(b"k8s\0"):
        return yaml.safe_load(body)
    envelope = dict(protobuf_fields(body[4:]))
    kind = dict(protobuf_fields(envelope[1]))[2].decode()
    if kind != "Secret":
        return {}
    fields = list(protobuf_fields(envelope[2]))
    metadata = list(protobuf_fields(dict(fields)[1]))
    labels = protobuf_map(value for number, value in metadata if number == 11)
    data = protobuf_map(value for number, value in fields if number == 2)
    return {
        "kind": kind,
        "metadata": {
            "name": dict(metadata)[1].decode(),
            "labels": {key: value.decode() for key, value in labels.items()},
        },
        "type": dict(fields)[3].decode(),
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def status(code, reason, message):
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Success" if code < 300 else "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


@contextmanager
def serve(cluster):
    """Runs the cluster; gives the path of a kubeconfig."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # An answer is one segment: the second of two would wait for the acknowledgement of the first.
        wbufsize = 1 << 16

        def handle_any(self):
            url = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = read(self.rfile.read(length)) if length else None
            with cluster.lock:
                code, answer = cluster.answer(self.command, url.path, parse_qs(url.query), body)
                text = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    entry = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        "users": [{"name": "fake", "user": {}}],
        "current-context": "fake",
    }
    with TemporaryDirectory() as folder:
        kubeconfig = Path(folder) / "kubeconfig"
        kubeconfig.write_text(json.dumps(entry))
        try:
            yield kubeconfig
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
