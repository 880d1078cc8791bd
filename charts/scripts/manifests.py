#!/usr/bin/env python3
"""Renders the chart into plain manifests, for people without Helm.

Usage: manifests.py <helm> <folder> <namespace> [values file]

Writes <folder>/image-mirror.yaml. What the chart generates is made at the first time and kept in
<folder>/generated.json, which the next times read, so that applying again changes no password. It is made anew where it no
longer fits: for another namespace or name, after a generation was raised, when a certificate is due. Values that are given
always win, and are not kept. ValidatingAdmissionPolicies are among the manifests; for Kubernetes older than 1.30 set
`admissionPolicies.enabled` to false. Both files hold secrets; only their owner may read them.
"""

import base64
import datetime
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

CHART = Path(__file__).resolve().parent.parent / "image-mirror"
# What every Secret among the manifests has.
SECRET = "\nkind: Secret\n"


def main(helm, folder, namespace, *values):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    os.umask(0o077)
    command = [helm, "template", "image-mirror", str(CHART), "--namespace", namespace]
    given = [part for file in values for part in ("--values", file)]
    # What the chart makes by itself is random, and so differs between two renders.
    made = generated(*(secrets(run([*command, *given])) for _ in range(2)))
    kept = keep(folder / "generated.json", made)
    pinned = {name: part["values"] for name, part in kept.items()}
    flags = ["--set", "tls.source=values"] if "certificate" in pinned.get("tls", {}) else []
    # `helm template` sees no API, so the chart would leave them out.
    pinned["admissionPolicies"] = {"enabled": True}
    text = run([*command, "--values", "-", *given, *flags], json.dumps(pinned))
    target = folder / "image-mirror.yaml"
    target.unlink(missing_ok=True)
    target.write_text(namespace_object(namespace) + text)
    print(f"{target}: kubectl apply --server-side --filename {target}")


def run(command, text=""):
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return done.stdout


def secrets(text):
    """The Secrets that the chart made, by the ends of their names."""
    found = (document for document in text.split("\n---\n") if SECRET in document)
    return {field(document, "  name: ").rpartition("-")[2]: document for document in found}


def generated(one, other):
    """What the chart generated: the values that pin it, what it is made for, and the day after which it is due."""

    def differs(name, key):
        return name in one and data(one[name], key) != data(other[name], key)

    result = {}
    if differs("facade", "password"):
        result["facade"] = part(one["facade"], {"password": data(one["facade"], "password")})
    if differs("tls", "tls.crt"):
        values = {"certificate": data(one["tls"], "tls.crt"), "key": data(one["tls"], "tls.key")}
        authority = data(one["tls"], "ca.crt")
        if differs("ca", "tls.crt"):
            values["ca"] = authority
            result["tls"] = part(one["tls"], values)
        else:
            result["tls"] = part(one["tls"], values, hashlib.sha256(authority.encode()).hexdigest())
    elif differs("ca", "tls.crt"):
        values = {"ca": data(one["ca"], "tls.crt"), "caKey": data(one["ca"], "tls.key")}
        result["tls"] = part(one["ca"], values)
    return result


def part(secret, values, authority=""):
    lines = [field(secret, start) for start in ("  namespace: ", "  name: ", "    image-mirror.dev/generation: ")]
    due = [line for line in secret.splitlines() if "image-mirror.dev/renew-after: " in line]
    due = due[0].split('"')[1] if due else ""
    return {"for": " ".join([*lines, authority]).strip(), "renewAfter": due, "values": values}


def keep(file, made):
    """What was made before, where it still fits, and else what was made now; kept for the next time."""
    before = json.loads(file.read_text()) if file.exists() else {}
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    for name in made:
        old = before.get(name, {})
        if old.get("for") == made[name]["for"] and (not old["renewAfter"] or today <= old["renewAfter"]):
            made[name] = old
    file.unlink(missing_ok=True)
    file.write_text(json.dumps(made, indent=2) + "\n")
    return made


def data(secret, key):
    return base64.b64decode(field(secret, f"  {key}: ")).decode()


def field(document, start):
    """What follows `start` on its line; the chart writes one line for each of these."""
    [line] = [line for line in document.splitlines() if line.startswith(start)]
    return line.removeprefix(start).strip('"')


def namespace_object(name):
    return f"---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
