#!/usr/bin/env python3
"""What is linked into mirror-sidecar, as cargo tells it: neither what only tests use, nor what only runs while compiling.

Usage: linked.py licenses TARGET...     the licenses of all crates, of Rust's library and of musl, for people
       linked.py sbom TARGET...         a bill of materials, SPDX 2.3 as JSON, of the targets together

The same crates give the same text. SOURCE_DATE_EPOCH is the time in the bill. Cargo gets the sources that are missing.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

NAME = "mirror-sidecar"
FILES = re.compile(r"(licen[cs]e|copying|notice|copyright|unlicense)", re.I)
MUSL = Path("/usr/share/doc/musl-dev/copyright")


def main(what, *targets):
    crates = linked(targets)
    print(licenses(crates) if what == "licenses" else json.dumps(sbom(crates), indent=2))


def linked(targets):
    """(name, version, license) of each crate, sorted; the first is the program itself."""
    found, own = set(), set()
    for target in targets:
        command = ["cargo", "tree", "--locked", "--package", NAME, "--edges", "normal,no-proc-macro", "--target", target]
        command += ["--prefix", "none", "--format", "{p}|{l}"]
        for line in subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines():
            package, _, license = line.removesuffix(" (*)").partition("|")
            name, version, *place = package.split(" ", 2)
            # Those of this repository say where they are.
            (own if place else found).add((name, version.removeprefix("v"), license.strip() or "NOASSERTION"))
    return sorted(own, key=lambda crate: (crate[0] != NAME, crate)), sorted(found)


def licenses(crates):
    """Each text once, with the crates that have it."""
    texts, lists = {}, {}
    out = ["What mirror-sidecar is made of besides its own code, which is under the license in LICENSE.", ""]
    for name, version, license in crates[1]:
        files = texts_of(name, version)
        for text in files:
            texts.setdefault(digest(text), text)
            lists.setdefault(digest(text), []).append(f"{name} {version}")
        out.append(f"{name} {version}: {license}" + ("" if files else " (its package has no text of it)"))
    parts = ["\n".join([*out, "Rust's standard library: MIT OR Apache-2.0", "musl: MIT"])]
    parts += [f"{', '.join(lists[key])}:\n\n{text}" for key, text in sorted(texts.items(), key=lambda item: (lists[item[0]], item[0]))]
    if MUSL.exists():
        parts.append(f"musl:\n\n{MUSL.read_text().strip()}")
    return f"\n\n{'=' * 80}\n\n".join(parts)


def texts_of(name, version):
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    [folder] = sorted(home.glob(f"registry/src/*/{name}-{version}"))[:1] or sys.exit(f"the source of {name} {version} is not there")
    files = [path for path in sorted(folder.iterdir()) if FILES.match(path.name) and path.is_file()]
    return [path.read_text(errors="replace").replace("\r\n", "\n").strip() for path in files]


def digest(text):
    # Line breaks and blanks make no other license.
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def sbom(crates):
    [(name, version, _), *_], found = crates
    created = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH") or 0), timezone.utc)
    packages, relations = [], []
    for crate in [*crates[0], *found]:
        entry = {
            "SPDXID": "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", "-".join(crate[:2])),
            "name": crate[0],
            "versionInfo": crate[1],
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            # The old way to write OR.
            "licenseDeclared": re.sub(r"\s*/\s*", " OR ", crate[2]),
            "licenseConcluded": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "externalRefs": [
                {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": f"pkg:cargo/{crate[0]}@{crate[1]}"}
            ],
        }
        relation = ("SPDXRef-DOCUMENT", "DESCRIBES") if not packages else (packages[0]["SPDXID"], "CONTAINS")
        relations.append({"spdxElementId": relation[0], "relationshipType": relation[1], "relatedSpdxElement": entry["SPDXID"]})
        packages.append(entry)
    content = hashlib.sha256(json.dumps(packages).encode()).hexdigest()
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{name} {version}",
        "documentNamespace": f"https://github.com/image-mirror/image-mirror/sbom/{version}/{content}",
        "creationInfo": {"created": created.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": ["Tool: publish/linked.py"]},
        "packages": packages,
        "relationships": relations,
    }


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("licenses", "sbom"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
