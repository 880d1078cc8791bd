"""What the tests share: a checkout of their own, and a real registry."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
REGISTRY_PROGRAM = "/usr/bin/docker-registry"


def run(*command, **options):
    """A command whose output is kept."""
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)


def checkout(test):
    """What git keeps, as it is now, in a repository of its own that goes with the test."""
    folder = Path(tempfile.mkdtemp(prefix="image-mirror-publish-"))
    test.addCleanup(shutil.rmtree, folder)
    names = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for command in (["init", "--quiet"], ["add", "--all"]):
        assert run("git", *command, cwd=folder).returncode == 0
    return folder


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def registry(test, certificate=None):
    """Starts Debian's registry on a free port of 127.0.0.1 and gives the port."""
    folder = Path(tempfile.mkdtemp(prefix="image-mirror-publish-"))
    test.addCleanup(shutil.rmtree, folder)
    port = free_port()
    tls = f", tls: {{certificate: {certificate[0]}, key: {certificate[1]}}}" if certificate else ""
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/storage}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', secret: test{tls}}}\n"
    )
    process = subprocess.Popen([REGISTRY_PROGRAM, "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    test.addCleanup(stop, process)
    wait(lambda: connects(port), "docker-registry does not listen")
    return port


def connects(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    except OSError:
        return False


def wait(condition, otherwise, seconds=20):
    """Waits until the condition holds, and gives what it gave."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(otherwise)


def stop(process):
    if process.poll() is None:
        process.kill()
    process.wait()


def skip(test, reason):
    """Skips loudly; where CI is set, it is a failure."""
    if os.environ.get("CI"):
        test.fail(reason)
    print(f"SKIPPED: {test.id()}: {reason}", file=sys.stderr)
    test.skipTest(reason)
