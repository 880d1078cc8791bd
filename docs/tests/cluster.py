"""An API server for the blocks of all files, one after the other: filled for each, and emptied after it."""

import atexit
import functools
import json
import tempfile
from contextlib import contextmanager

from api_server import ApiServer, definition
from markdown import ROOT
from support import NAMESPACE, helm

FIXTURES = ROOT / "e2e-tests" / "fixtures"
# What the blocks make: in namespaces, and elsewhere.
KINDS = (
    "deployments,statefulsets,daemonsets,cronjobs,jobs,replicasets,replicationcontrollers,pods,secrets,configmaps,"
    "serviceaccounts,services,roles,rolebindings,networkpolicies,events,leases"
)
CLUSTER_KINDS = "policyservers,clusteradmissionpolicies,clusterroles,clusterrolebindings"
# Of Kubernetes 1.30.
ADMISSION_KINDS = ("validatingadmissionpolicies", "validatingadmissionpolicybindings")
# cert-manager's type, which accepts any fields.
CERTIFICATES = definition("certificates", "Certificate")
CERTIFICATES["metadata"]["name"] = "certificates.cert-manager.io"
CERTIFICATES["spec"].update(group="cert-manager.io", scope="Namespaced")
# What the server itself has, and makes again.
KEPT = {"kube-system", "kube-public", "kube-node-lease"}


@functools.cache
def server():
    """The server, which ends with this program."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    api = ApiServer(folder.name).__enter__()
    atexit.register(api.stop)
    api.define_kubewarden()
    api.kubectl("create", "--filename", "-", stdin=json.dumps(CERTIFICATES))
    return api


@contextmanager
def filled():
    """The server, with Kubewarden's Deployment, and with workloads that the policy rewrote."""
    api = server()
    try:
        fill(api)
        yield api
    finally:
        empty(api)


def fill(api):
    objects = [{"kind": "Namespace", "metadata": {"name": name}} for name in ("kubewarden", "shop")]
    labels = {"app.kubernetes.io/part-of": "kubewarden", "app.kubernetes.io/component": "controller"}
    image = "ghcr.io/kubewarden/adm-controller/controller:v1.37.2"
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "controller", "image": image}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    metadata = {"name": "controller", "namespace": "kubewarden", "labels": labels}
    objects.append({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": metadata, "spec": spec})
    old = "batch/v1beta1" in api.kubectl("api-versions").split()
    for item, _ in rewritten():
        if item["kind"] == "CronJob" and old:
            item["apiVersion"] = "batch/v1beta1"
        item["metadata"] = {key: item["metadata"][key] for key in ("name", "namespace")}
        objects.append(item)
    text = json.dumps({"kind": "List", "apiVersion": "v1", "items": [{"apiVersion": "v1", **item} for item in objects]})
    # Newer fields than the server's are dropped.
    api.kubectl("create", "--validate=false", "--filename", "-", stdin=text)


def empty(api):
    names = api.kubectl("get", "namespaces", "--output", "jsonpath={.items[*].metadata.name}").split()
    now = ("--wait=false", "--force", "--grace-period=0")
    for name in set(names) - KEPT:
        api.kubectl("delete", KINDS, "--all", "--namespace", name, *now)
        if name != "default":
            api.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")
            # There is no controller that would do this.
            done = json.dumps({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}, "spec": {}})
            api.kubectl("replace", "--raw", f"/api/v1/namespaces/{name}/finalize", "--filename", "-", stdin=done)
    served = api.kubectl("api-resources", "--output", "name")
    admission = [f"{kind}.admissionregistration.k8s.io" for kind in ADMISSION_KINDS]
    kinds = ",".join([CLUSTER_KINDS, *(kind for kind in admission if kind in served)])
    api.kubectl("delete", kinds, "--selector", "app.kubernetes.io/part-of=image-mirror", *now)


def install(api, chart):
    """Installs the chart, with the Secrets that the docs speak of, unless it is there."""
    if f"namespace/{NAMESPACE}" in api.kubectl("get", "namespaces", "--output", "name").split():
        return
    api.kubectl("create", "namespace", NAMESPACE)
    for name, user in (("backup-push", "bot"), ("backup-pull", "reader")):
        login = (f"--from-literal=username={user}", "--from-literal=password=old")
        api.kubectl("create", "secret", "generic", name, "--namespace", NAMESPACE, *login)
    sets = ("registry.host=registry.example.com", "registry.repository=acme/mirror")
    secrets = ("registry.existingSecret=backup-push", "pull.existingSecret=backup-pull")
    flags = [part for text in (*sets, *secrets) for part in ("--set", text)]
    helm("install", "image-mirror", chart, "--namespace", NAMESPACE, *flags, env=api.env)


def rewritten():
    """What the policy's recorded answers make of the recorded requests: each object, and what it was before."""
    for path in sorted((FIXTURES / "expected").glob("*-create.json")):
        answer = json.loads(path.read_text())
        before = json.loads((FIXTURES / "admission" / path.name).read_text())["request"]["object"]
        if answer.get("patch"):
            after = json.loads(json.dumps(before))
            for operation in answer["patch"]:
                apply(after, operation)
            yield after, before


def apply(document, operation):
    """Applies an operation of a JSON Patch."""
    *path, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    for part in path:
        document = document[int(part) if isinstance(document, list) else part]
    if isinstance(document, list):
        last = len(document) if last == "-" else int(last)
        if operation["op"] == "add":
            document.insert(last, operation["value"])
            return
    if operation["op"] == "remove":
        del document[last]
    else:
        document[last] = operation["value"]
