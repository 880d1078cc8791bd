#!/usr/bin/env python3
"""The version of a release: it is in many files, and must be the same in all of them.

Usage: versions.py show              that of Cargo.toml
       versions.py check [TAG]       fails when a file disagrees, or the tag, or when CHANGELOG.md has no such release
       versions.py bump VERSION      writes it everywhere, and makes what CHANGELOG.md has as unreleased that release
       versions.py notes VERSION     what CHANGELOG.md says about it

The policy, the sidecar and the chart are released together, with one version.
"""

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
# Semantic versions, with a pre-release but without build metadata: a tag of an image cannot have a `+`.
VERSION = r"\d+\.\d+\.\d+(?:-[0-9A-Za-z]+(?:[.-][0-9A-Za-z]+)*)?"
CRATES = "benches|demo|e2e-tests|image-mirror-policy|mirror-contract|mirror-copy|mirror-sidecar|testkit"
# Files that must have the version, and how it looks there.
PLACES = {
    "Cargo.toml": [r'^version = "(VERSION)"'],
    "metadata.yml": [r"^  io\.kubewarden\.policy\.version: (VERSION)$"],
    "artifacthub-pkg.yml": [r"^version: (VERSION)$"],
    "charts/image-mirror/Chart.yaml": [r"^version: (VERSION)$", r"^appVersion: v(VERSION)$"],
}
# What is a version of ours wherever it stands, in docs and reviewed renders for example.
ANYWHERE = [
    r"image-mirror/(?:mirror-sidecar|policies/image-mirror):v(VERSION)",
    r"image-mirror/charts/image-mirror(?::|`, version `| --version )(VERSION)",
    # The chart in an Application of Argo CD.
    r"^ +chart: image-mirror\n +targetRevision: (VERSION)$",
    r"image-mirror/releases/download/v(VERSION)",
    r"git checkout v(VERSION)",
    r"release\.yml@refs/tags/v(VERSION)",
    r'^ +app\.kubernetes\.io/version: "v(VERSION)"$',
    r'^ +helm\.sh/chart: "?image-mirror-(VERSION)"?$',
    rf'^name = "(?:{CRATES})"\nversion = "(VERSION)"',
]
# The same without its last part: what Flux takes by itself.
RANGES = [r"image-mirror/charts/image-mirror\n +ref:\n +semver: (SERIES)\.x$"]
SERIES = r"\d+\.\d+"
# Tells of what was.
HISTORY = "CHANGELOG.md"
UNRELEASED = "## [Unreleased]\n"


def main(folder, command, *arguments):
    if command == "show" and not arguments:
        print(show(folder))
    elif command == "check" and len(arguments) <= 1:
        problems = check(folder, *arguments)
        if problems:
            sys.exit("\n".join(problems))
    elif command == "bump" and len(arguments) == 1:
        bump(folder, *arguments)
    elif command == "notes" and len(arguments) == 1:
        print(notes(folder, *arguments) or sys.exit(f"{HISTORY}: there is nothing about {arguments[0]}"))
    else:
        sys.exit(__doc__)


def show(folder):
    found = pattern(PLACES["Cargo.toml"][0]).search((folder / "Cargo.toml").read_text())
    return found[1] if found else sys.exit("Cargo.toml has no version")


def check(folder, tag=None):
    """What is wrong, a line each."""
    version, problems = show(folder), []
    for name, text in files(folder):
        for place in PLACES.get(name, []):
            if not pattern(place).search(text):
                problems.append(f"{name}: there is no version like {place}")
        for found in mentions(name, text):
            if found[1] not in (version, series(version)):
                line = text.count("\n", 0, found.start(1)) + 1
                problems.append(f"{name}:{line}: {found[1]}, but Cargo.toml says {version}")
    for name in PLACES.keys() - {name for name, _ in files(folder)}:
        problems.append(f"{name}: is missing")
    if tag is not None and tag != f"v{version}":
        problems.append(f"the tag is {tag}, but Cargo.toml says {version}")
    if tag is not None and not notes(folder, version):
        problems.append(f"{HISTORY}: there is nothing about {version}")
    return problems


def bump(folder, version):
    if not re.fullmatch(VERSION, version):
        sys.exit(f"{version} is not a version such as 1.2.3 or 1.2.3-rc.1")
    if not notes(folder, version) and not notes(folder, "Unreleased"):
        sys.exit(f"{HISTORY}: nothing is unreleased: write down what is new first")
    for name, text in files(folder):
        spots = sorted({found.span(1) for found in mentions(name, text)}, reverse=True)
        for start, end in spots:
            new = version if re.fullmatch(VERSION, text[start:end]) else series(version)
            text = text[:start] + new + text[end:]
        if spots:
            (folder / name).write_text(text)
    if not notes(folder, version):
        path = folder / HISTORY
        path.write_text(path.read_text().replace(UNRELEASED, f"{UNRELEASED}\n## [{version}] - {date.today()}\n", 1))


def notes(folder, version):
    """The text below the heading of that version, or None."""
    sections = re.split(r"^## ", (folder / HISTORY).read_text(), flags=re.M)
    for section in sections:
        heading, _, text = section.partition("\n")
        if heading.startswith(f"[{version}]"):
            return text.strip()
    return None


def mentions(name, text):
    """Every version of ours in a file."""
    if name != HISTORY:
        for place in PLACES.get(name, []) + ANYWHERE + RANGES:
            yield from pattern(place).finditer(text)


def series(version):
    """1.2 of 1.2.3."""
    return re.match(SERIES, version)[0]


def pattern(place):
    return re.compile(place.replace("VERSION", VERSION).replace("SERIES", SERIES), re.M)


def files(folder):
    """What git keeps, as text; what is not text has no version."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=folder, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        path = folder / name
        # This file and its test are about versions.
        if name.startswith("publish/") or not path.is_file():
            continue
        try:
            yield name, path.read_text()
        except UnicodeDecodeError:
            continue


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(HERE, *sys.argv[1:])
