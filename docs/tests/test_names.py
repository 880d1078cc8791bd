"""What the documentation names exists: flags, variables, values, figures, Make targets, files."""

import re
import subprocess
import threading
import unittest
import urllib.request

from markdown import ROOT, blocks, code_spans, files, read, written
from scratch import PATIENCE, SIDECAR
from support import defaults, schema

# Flags of other programs that the text mentions by themselves.
FOREIGN_FLAGS = {
    "--all",
    "--all-namespaces",
    "--docker-config-json-path",
    "--server-side",
    "--user",
    "--functions",
    "--namespace",
    "--referrers",
    "--replay-host-capabilities-interactions",
}
# Not ours: variables of programs beside which ours work, and words that only look like variables.
FOREIGN_VARIABLES = {
    "CREATE_ON_PUSH",
    "FEATURE_EXTENDED_REPOSITORY_NAMES",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "SIGKILL",
    "SIGTERM",
}
# Values of other charts, and keys of the configuration file, whose first word is one of ours.
FOREIGN_VALUES = {
    "backups.default",
    "global.hub",
    "global.imagePullSecrets",
    "global.proxy.image",
    "global.proxy_init.image",
    "proxy.image.name",
}
# Where variables are read.
SOURCES = ("Makefile", ".mk", ".sh", ".rs", ".py", ".bats", ".tpl", ".ci/run")
# What else begins like a value of the chart, and is a file.
ENDINGS = (".com", ".crt", ".wasm", ".rs", ".yaml", ".yml", ".json", ".md", ".py", ".sh")
FOLDERS = (
    "benches/",
    "charts/",
    "docs/",
    "e2e-tests/",
    "examples/",
    "mirror-contract/",
    "mirror-copy/",
    "mirror-sidecar/",
    "policy/",
    "publish/",
    "testkit/",
)


COMMANDS = ("serve", "copy", "name", "check", "plan", "status", "verify", "completion", "man")


def help_of(*command):
    return subprocess.run([SIDECAR, *command, "--help"], capture_output=True, text=True, env={}, check=True).stdout


def flags():
    """The flags of mirror-sidecar, by command."""
    return {name: set(re.findall(r"--[a-z][a-z-]+", help_of(name))) for name in COMMANDS}


def metrics():
    """The figures that a running sidecar tells."""
    command = [SIDECAR, "serve", "--insecure-http", "--registry=localhost:1", "--log-format=json"]
    process = subprocess.Popen(
        [*command, "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"], stderr=subprocess.PIPE, text=True, env={}
    )
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    try:
        for line in process.stderr:
            if "admin is listening" in line:
                port = re.search(r"127\.0\.0\.1:(\d+)", line)[1]
                break
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()
    finally:
        timer.cancel()
        process.terminate()
        process.wait(30)
        process.stderr.close()
    endings = {"counter": "_total", "info": "_info"}
    return {name + endings.get(kind, "") for name, kind in re.findall(r"(?m)^# TYPE (\w+) (\w+)", text)}


def known_values(node=None, path=()):
    """All paths of values that the chart's schema has, groups included."""
    node = schema() if node is None else node
    for name, child in node.get("properties", {}).items():
        yield ".".join((*path, name))
        yield from known_values(child, (*path, name))


def targets():
    text = "\n".join(path.read_text() for path in [ROOT / "Makefile", *ROOT.glob("*/*.mk")])
    return set(re.findall(r"(?m)^([A-Za-z][\w.-]*):(?!=)", text))


def sources():
    """The words that may be variables, in everything but what only tests the documentation."""
    own = [name for name in files(*SOURCES) if not name.startswith("docs/")]
    return set(re.findall(r"\b[A-Z][A-Z0-9_]{2,}\b", "\n".join(map(read, own))))


class Names(unittest.TestCase):
    def none(self, wrong):
        self.assertEqual(sorted(set(wrong)), [])

    def spans(self):
        return [(f"{name}:{line}", text) for name in written() for line, text in code_spans(name)]

    def commands(self):
        """The commands in blocks, without comments, with what continues them."""
        for name in written():
            for block in blocks(name):
                if block.language == "console":
                    for line in block.text.replace("\\\n", " ").splitlines():
                        yield str(block), re.sub(r"(^|\s)#.*", "", line)

    def test_flags(self):
        known = flags()
        every = set().union(*known.values()) | FOREIGN_FLAGS | {"--version"}
        named = [(place, flag) for place, text in self.spans() for flag in re.findall(r"^--[a-z][a-z-]+", text)]
        self.none(f"{place}: {flag}" for place, flag in named if flag not in every)
        for place, command in self.commands():
            if match := re.search(rf"mirror-sidecar ({'|'.join(COMMANDS)})\b([^|;&>]*)", command):
                given = set(re.findall(r"--[a-z][a-z-]+", match[2]))
                self.assertLessEqual(given, known[match[1]], place)

    def test_variables(self):
        known = sources() | FOREIGN_VARIABLES
        named = [(place, re.match(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+(?==|$)", text)) for place, text in self.spans()]
        self.none(f"{place}: {match[0]}" for place, match in named if match and match[0] not in known)

    def test_values(self):
        known, top = set(known_values()), set(defaults())
        named = []
        for place, text in self.spans():
            if match := re.match(r"([a-z]\w*(?:\.\w+)+)(?:[=:]|$)", text):
                named.append((place, match[1]))
        for place, command in self.commands():
            named += [(place, path) for path in re.findall(r"--set(?:-\w+)? ([\w.]+)=", command)]
        named = [(place, path) for place, path in named if path.partition(".")[0] in top and not path.endswith(ENDINGS)]
        self.assertGreater(len(named), 20)
        self.none(f"{place}: {path}" for place, path in named if path not in known | FOREIGN_VALUES)

    def test_metrics(self):
        known = metrics()
        self.assertGreater(len(known), 20)
        named = [(name, word) for name in written() for word in re.findall(r"\bimage_mirror_\w+", read(name))]
        self.none(f"{name}: {word}" for name, word in named if word not in known)
        documented = {word for name, word in named if name == "docs/metrics.md"}
        self.none(f"docs/metrics.md does not list {word}" for word in known - documented)

    def test_make_targets(self):
        known = targets()
        texts = [*self.spans(), *self.commands()]
        named = [
            (place, target) for place, text in texts for target in re.findall(r"(?:^|[;&|] )make ([a-z][\w.-]*)", text)
        ]
        self.assertGreater(len(named), 20)
        self.none(f"{place}: make {target}" for place, target in named if target not in known)

    def test_files(self):
        named = [(place, text.split()[0]) for place, text in self.spans() if text.startswith(FOLDERS)]
        self.assertGreater(len(named), 20)
        self.none(f"{place}: {path}" for place, path in named if not any(ROOT.glob(path.rstrip("/"))))

    def test_the_architecture_names_files_from_the_root(self):
        spans = [text for _, text in code_spans("docs/architecture.md") if "/" in text and "." in text]
        self.assertGreater(len(spans), 50)
        # `test_files` looks these up.
        self.none(text for text in spans if re.search(r"\.(rs|py|sh)$", text) and not text.startswith(FOLDERS))
