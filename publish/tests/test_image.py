"""The image that is published: pushed, pulled, unpacked, and its program run as Kubernetes would, in a root of nothing else.

IMAGE_ARCHIVE names the archive. What a container engine does is done by hand: the layer is unpacked and mounted read-only,
and the program runs in it as the image's user. `/etc/hosts` and `/etc/resolv.conf` are put there, as every engine does.
"""

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import unittest
from pathlib import Path

from nameserver import NameServer
from support import ROOT, REGISTRY_PROGRAM, free_port, registry, run, skip, stop, wait

ARCHIVE = os.environ.get("IMAGE_ARCHIVE")
AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"
# Found by DNS, and by the file.
SOURCE, BACKUP = "source.registry.test", "backup.registry.test"
# Mounts this root read-only in a namespace of its own, and stays there as this user: ROOT UID:GID PROGRAM...
CONTAINER = """
mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && cd "$1" && root=$1 user=$2 && shift 2 &&
exec chroot --userspec="$user" --groups= "$root" "$@"
"""


class Image(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not ARCHIVE:
            raise unittest.SkipTest("IMAGE_ARCHIVE names no archive: make publish-test builds one")

    def setUp(self):
        for program in (REGISTRY_PROGRAM, "skopeo", "openssl"):
            if not shutil.which(program):
                skip(self, f"the image was NOT run: {program} is missing")
        if os.geteuid() != 0 or run("unshare", "--mount", "true").returncode != 0:
            skip(self, "the image was NOT run: that takes root, who may mount")
        self.folder = Path(tempfile.mkdtemp(prefix="image-mirror-publish-"))
        self.addCleanup(shutil.rmtree, self.folder)
        # Another user runs the program in it.
        self.folder.chmod(0o755)
        self.port = registry(self)

    def pull(self):
        """Pushes the archive and pulls it back: its configuration, and the unpacked root."""
        name = f"127.0.0.1:{self.port}/mirror-sidecar:v1"
        for source, target in ((f"oci-archive:{ARCHIVE}", f"docker://{name}"), (f"docker://{name}", f"dir:{self.folder}/image")):
            flags = ["--src-tls-verify=false", "--dest-tls-verify=false"]
            done = run("skopeo", "copy", "--quiet", *flags, source, target)
            self.assertEqual(done.returncode, 0, done.stderr)
        pulled = self.folder / "image"
        manifest = json.loads((pulled / "manifest.json").read_text())
        config = json.loads((pulled / hex_of(manifest["config"])).read_text())
        root = self.folder / "root"
        root.mkdir()
        for layer in manifest["layers"]:
            with tarfile.open(pulled / hex_of(layer)) as files:
                files.extractall(root)
        return config["config"], root

    def container(self, config, root, *arguments, env=None):
        """The command line and the environment of a container."""
        (root / "etc/hosts").write_text(f"127.0.0.1 localhost {BACKUP}\n")
        command = ["unshare", "--mount", "sh", "-c", CONTAINER, "sh", root, config["User"], *config["Entrypoint"], *arguments]
        environment = dict(pair.split("=", 1) for pair in config["Env"])
        return [str(part) for part in command], {**environment, **(env or {}), "PATH": os.environ["PATH"]}

    def in_container(self, config, root, *arguments, env=None):
        command, environment = self.container(config, root, *arguments, env=env)
        return run(*command, env=environment, timeout=60)

    def test_it_is_pulled_byte_for_byte(self):
        self.pull()
        with tarfile.open(ARCHIVE) as archive:
            index = json.load(archive.extractfile("index.json"))
            pushed = {member.name.rpartition("/")[2] for member in archive.getmembers() if member.name.startswith("blobs/")}
        pulled = {hashlib.sha256(file.read_bytes()).hexdigest() for file in (self.folder / "image").iterdir()}
        self.assertEqual(pushed - pulled, set())
        self.assertIn(hex_of(index["manifests"][0]), pulled)

    def test_it_has_nothing_but_the_program_and_the_authorities(self):
        config, root = self.pull()
        files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        self.assertEqual(files, {"mirror-sidecar", "LICENSE", "THIRD-PARTY", AUTHORITIES})
        self.assertEqual(config["User"], "65532:65532")
        self.assertIn("statically linked", headers(root / "mirror-sidecar"))
        # Where it was built is nobody's business.
        program = (root / "mirror-sidecar").read_bytes()
        for path in {str(ROOT), os.environ.get("CARGO_HOME") or str(Path.home() / ".cargo")}:
            self.assertEqual(program.count(f"{path}/".encode()), 0, path)

    def test_the_program_says_its_version(self):
        config, root = self.pull()
        done = self.in_container(config, root, "--version")
        version = run(ROOT / "publish/versions.py", "show").stdout.strip()
        self.assertEqual((done.returncode, done.stdout.strip()), (0, f"mirror-sidecar {version}"), done.stderr)
        # The root of the test is what it should be: read-only, and the user is not root.
        shutil.copy(self.static_probe(), root / "probe")
        probe = self.in_container({**config, "Entrypoint": ["/probe"]}, root)
        self.assertEqual(probe.stdout.strip(), "65532 65532 30", probe.stderr)

    def static_probe(self):
        """A program that says who runs it, and which error a new file in the root is."""
        source, program = self.folder / "probe.c", self.folder / "probe"
        source.write_text(
            "#include <errno.h>\n#include <fcntl.h>\n#include <stdio.h>\n#include <unistd.h>\n"
            'int main(void) { errno = 0; int file = open("/new", O_CREAT | O_WRONLY, 0644);\n'
            'printf("%d %d %d\\n", getuid(), getgid(), file < 0 ? errno : 0); return 0; }\n'
        )
        done = run("cc", "-static", "-o", program, source)
        self.assertEqual(done.returncode, 0, done.stderr)
        return program

    def test_it_copies_between_registries_that_it_finds_by_name(self):
        config, root = self.pull()
        backup = registry(self)
        names = NameServer({SOURCE: "127.0.0.1"})
        self.addCleanup(names.close)
        # As in a Pod: several domains are tried before the name as it is.
        (root / "etc/resolv.conf").write_text(
            f"search shop.svc.cluster.local svc.cluster.local\nnameserver {names.address}\noptions ndots:5\n")
        hosts = [f"{SOURCE}:{self.port}", f"{BACKUP}:{backup}"]
        done = self.in_container(config, root, "copy", f"{hosts[0]}/mirror-sidecar:v1", env={
            "REGISTRY": hosts[1], "REPOSITORY": "mirror", "INSECURE_REGISTRIES": ",".join(hosts)})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"{SOURCE}.shop.svc.cluster.local", names.asked)
        self.assertIn(SOURCE, names.asked)
        with tarfile.open(ARCHIVE) as archive:
            digest = json.load(archive.extractfile("index.json"))["manifests"][0]["digest"]
        found = run("skopeo", "inspect", "--raw", "--tls-verify=false", "docker://" + self.copy_name(backup))
        self.assertEqual("sha256:" + hashlib.sha256(found.stdout.encode()).hexdigest(), digest, found.stderr)

    def copy_name(self, port):
        """Where the one copy in that registry is."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            connection.request("GET", "/v2/_catalog")
            [name] = json.load(connection.getresponse())["repositories"]
        self.assertTrue(name.startswith("mirror/"), name)
        return f"127.0.0.1:{port}/{name}:v1"

    def test_it_trusts_the_authorities_in_its_image(self):
        config, root = self.pull()
        certificate, key, authority = self.certificates()
        port = registry(self, (certificate, key))
        env = {"REGISTRY": f"{BACKUP}:{port}", "REPOSITORY": "mirror", "INSECURE_REGISTRIES": f"localhost:{self.port}"}
        image = f"localhost:{self.port}/mirror-sidecar:v1"
        done = self.in_container(config, root, "copy", image, env=env)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertRegex(done.stderr + done.stdout, "(?i)unknown ?issuer|certificate")
        # The same file with one more authority, and nothing else.
        with (root / AUTHORITIES).open("a") as file:
            file.write(authority.read_text())
        done = self.in_container(config, root, "copy", image, env=env)
        self.assertEqual(done.returncode, 0, done.stderr)

    def certificates(self):
        """A certificate for the backup's name, its key, and the authority that signed it."""
        authority, certificate, key = (self.folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        for command in (
            [*new, "-subj", "/CN=test", "-keyout", self.folder / "ca-key.pem", "-out", authority],
            [*new, "-subj", f"/CN={BACKUP}", "-addext", f"subjectAltName=DNS:{BACKUP}", "-addext", "basicConstraints=critical,CA:FALSE",
             "-CA", authority, "-CAkey", self.folder / "ca-key.pem", "-keyout", key, "-out", certificate],
        ):
            done = run(*command)
            self.assertEqual(done.returncode, 0, done.stderr)
        return certificate, key, authority

    def test_it_serves(self):
        config, root = self.pull()
        admin = free_port()
        # As a Secret is mounted.
        (root / "etc/image-mirror").mkdir()
        (root / "etc/image-mirror/password").write_text("secret")
        command, environment = self.container(config, root, "serve", env={
            "REGISTRY": f"localhost:{self.port}", "REPOSITORY": "mirror", "INSECURE_REGISTRIES": f"localhost:{self.port}",
            "LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": f"127.0.0.1:{admin}", "INSECURE_HTTP": "true",
            "FACADE_USERNAME": "policy", "FACADE_PASSWORD_FILE": "/etc/image-mirror/password", "KUBERNETES": "off"})
        log = (self.folder / "log").open("w+")
        self.addCleanup(log.close)
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.addCleanup(stop, process)
        for path in ("/healthz", "/readyz"):
            try:
                wait(lambda path=path: get(admin, path) == 200, f"{path} of the image's program does not answer 200")
            except AssertionError as error:
                log.seek(0)
                raise AssertionError(f"{error}:\n{log.read()}") from None
        status = Path(f"/proc/{process.pid}/status").read_text()
        self.assertIn("\nUid:\t65532\t65532\t65532\t65532\n", status)
        self.assertIn("\nCapEff:\t0000000000000000\n", status)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=20), 0)


def get(port, path):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return None


def hex_of(descriptor):
    return descriptor["digest"].removeprefix("sha256:")


def headers(program):
    """What `file` would say of interest: whether a program asks for an interpreter, or for libraries."""
    content = program.read_bytes()
    assert content[:5] == b"\x7fELF\x02", "not a 64-bit program"
    offset, size, count = (int.from_bytes(content[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
    kinds = [int.from_bytes(content[offset + i * size:][:4], "little") for i in range(count)]
    return "asks for an interpreter" if 3 in kinds else "statically linked"


if __name__ == "__main__":
    unittest.main()
