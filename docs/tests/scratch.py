"""Where the blocks of one file run: a folder that looks like a checkout, registries, and if they need it a cluster."""

import os
import re
import shutil
import subprocess
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

from cluster import filled, install
from markdown import ROOT
from registries import Proxy, Registry
from support import CHART

SIDECAR = Path(os.environ["MIRROR_SIDECAR_BIN"])
# Seconds: what takes this long in a debug build on a busy machine will never come.
PATIENCE = 120
VERSION = subprocess.run([ROOT / "publish/versions.py", "show"], capture_output=True, text=True, check=True).stdout.strip()
# What the registries upstream have.
IMAGES = [
    ("library/nginx", "1.27"),
    ("library/redis", "7"),
    ("image-mirror/mirror-sidecar", f"v{VERSION}"),
    ("image-mirror/policies/image-mirror", f"v{VERSION}"),
    ("image-mirror/charts/image-mirror", VERSION),
    ("team/app", "v1"),
    ("kubewarden/adm-controller/controller", "v1.37.2"),
    ("kubewarden/adm-controller/policy-server", "v1.37.2"),
    ("kubewarden/adm-controller/audit-scanner", "v1.37.2"),
]
# What blocks find in their folder, beside a certificate with its key.
FILES = {
    "password": "push",
    "pull-password": "pull",
    "images.txt": "# what we use\nnginx:1.27\nredis:7\n",
    "issuer.crt": "-----BEGIN CERTIFICATE-----\nMIIBnothing\n-----END CERTIFICATE-----\n",
}


# Where blocks may run beside the folder: an API server, and one with a release of the chart.
PLACES = ("cluster", "installed")


class Scratch:
    """Runs blocks one after the other; what one exports or writes is there for the next."""

    def __init__(self):
        self.stack = ExitStack()
        self.env = {}

    def __enter__(self):
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.checkout = self.folder / "image-mirror"
        self.cluster = None
        copy_checkout(self.checkout)
        programs = self.folder / "bin"
        programs.mkdir()
        (programs / "mirror-sidecar").symlink_to(SIDECAR)
        self.env = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "KUBECONFIG": str(self.folder / "none"),
        }
        for name, text in FILES.items():
            self.write(name, text)
        return self

    def __exit__(self, *_):
        self.stack.close()

    def start_registries(self):
        """Registries under the names of public ones, and a certificate for all of them."""
        if "HTTPS_PROXY" in self.env:
            return
        upstream = self.stack.enter_context(Registry(self.folder, "upstream"))
        backup = self.stack.enter_context(Registry(self.folder, "backup"))
        for repository, tag in IMAGES:
            upstream.put_image(repository, tag)
        proxy = self.stack.enter_context(Proxy(self.folder, upstream, backup))
        self.env["HTTPS_PROXY"] = f"http://127.0.0.1:{proxy.server_port}"
        self.env["NO_PROXY"] = "127.0.0.1,localhost"
        self.env["CA_FILE"] = str(proxy.authority)
        for name, made in (("tls.crt", "hosts.crt"), ("tls.key", "hosts.key")):
            self.write(name, (self.folder / made).read_text())

    def start_cluster(self):
        if self.cluster:
            return
        self.cluster = self.stack.enter_context(filled())
        self.env["KUBECONFIG"] = str(self.cluster.config)

    def write(self, name, text):
        (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (self.checkout / name).write_text(text)

    def run(self, block):
        """Runs a block; gives what it printed, and the exit code with what it said on standard error."""
        if re.search(r"mirror-sidecar (serve|copy|check|verify|plan (?!--offline))", block.text):
            self.start_registries()
        place = block.options.get("in")
        assert place in (None, *PLACES), f"{block}: there is no place called {place}"
        if place:
            self.start_cluster()
        if place == "installed":
            install(self.cluster, self.checkout / "charts" / "image-mirror")
        text = replaced(block)
        if until := block.options.get("until"):
            return self.run_until(text, until)
        left = self.folder / "environment"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{text}\nenv -0 >'{left}'"],
            cwd=self.checkout,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode == 0:
            self.env = dict(entry.split("=", 1) for entry in left.read_text().split("\0") if entry)
        return done.stdout, done.returncode, done.stderr

    def run_until(self, text, until):
        """Runs what never ends until it says this, then stops it."""
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", f"exec {text}"],
            cwd=self.checkout,
            env={**self.env, "LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "127.0.0.1:0"},
            stderr=subprocess.PIPE,
            text=True,
        )
        said = []
        # Whoever says nothing more would be waited for without an end.
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        try:
            for line in process.stderr:
                said.append(line)
                if until in line:
                    return "", 0, "".join(said)
            return "", 1, "".join(said)
        finally:
            timer.cancel()
            process.terminate()
            process.wait(PATIENCE)
            process.stderr.close()


def replaced(block):
    """The text of a block after the replacements of its mark, each of which must find something."""
    text = block.text
    for old, new in block.replacements:
        if old not in text:
            raise AssertionError(f"{block}: `{old}`, which its mark replaces, is not in it")
        text = text.replace(old, new)
    return text


def copy_checkout(folder):
    """What of a checkout the blocks use. The chart is as an old API server can take it."""
    shutil.copytree(CHART.parent, folder / "charts", ignore=shutil.ignore_patterns("tests"))
    makefile = (ROOT / "Makefile").read_text()
    for name in ["Makefile", "publish/manifests-values.yaml", *re.findall(r"(?m)^include (\S+)", makefile)]:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    chart = folder / "charts" / "image-mirror"
    edit(chart / "Chart.yaml", r"(?m)^kubeVersion:.*\n", "")
    edit(
        chart / "values.yaml",
        r"(?m)^podDisruptionBudget:\n((?:  #.*\n)*)  enabled: true",
        r"podDisruptionBudget:\n\1  enabled: false",
    )


def edit(path, pattern, new):
    text, count = re.subn(pattern, new, path.read_text())
    assert count == 1, f"{pattern} is {count} times in {path}"
    path.write_text(text)
