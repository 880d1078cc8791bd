#!/usr/bin/env python3
"""Writes values for the chart, as JSON, out of the variables of image-clone-controller that deploy.sh explains."""

import json
import os
import re
import sys
from pathlib import Path


SHARED_LOGIN = """
WARNING: Pods will pull with REGISTRY_USERNAME and REGISTRY_PASSWORD, which may push. They go into a Secret in every namespace
WARNING: with workloads. Anyone who can read Secrets in one of them can replace the images that all namespaces run.
WARNING: Set PULL_USERNAME and PULL_PASSWORD to a user that may only read, and run this again.
"""


def given(**names):
    """The variables that are set, by the names of values."""
    return {value: os.environ[name] for value, name in names.items() if os.environ.get(name)}


def image(name):
    """An image's name taken apart as the chart wants it."""
    name, _, digest = name.partition("@")
    path, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "" if digest else "latest")
    first, _, rest = path.partition("/")
    is_registry = rest and ("." in first or ":" in first or first == "localhost")
    found = {"registry": first if is_registry else "", "repository": rest if is_registry else path, "tag": tag}
    return {**found, "digest": digest} if digest else found


def policy_server_image(name):
    """The chart gives it by its tag, from which Kubewarden's users see the version."""
    found = image(name)
    found.pop("digest", None)
    if not found["tag"]:
        sys.exit(f"POLICY_SERVER_IMAGE: {name} has no tag: name:tag")
    return found


def sets_pull():
    """Whether the file with more values says what Pods pull with, at the beginning of a line as values are written."""
    file = os.environ.get("VALUES")
    return bool(file) and re.search(r"""^["']?pull["']?\s*:""", Path(file).read_text(), re.MULTILINE) is not None


def values():
    registry = given(
        host="REGISTRY", repository="REPOSITORY", username="REGISTRY_USERNAME", password="REGISTRY_PASSWORD"
    )
    pull = given(username="PULL_USERNAME", password="PULL_PASSWORD")
    if not pull and "username" in registry and not sets_pull():
        pull = {"useRegistryCredentials": True}
        print(SHARED_LOGIN, file=sys.stderr)
    result = {"registry": registry, "pull": pull, "kubewarden": given(namespace="KUBEWARDEN_NAMESPACE")}
    excluded = [name.strip() for name in os.environ.get("EXCLUDE_NAMESPACES", "").split(",")]
    if any(excluded):
        result["excludeNamespaces"] = [name for name in excluded if name]
    if name := os.environ.get("POLICY_SERVER_IMAGE"):
        result["policyServer"] = {"image": policy_server_image(name)}
    if name := os.environ.get("SIDECAR_IMAGE"):
        result["image"] = image(name)
    return result


if __name__ == "__main__":
    print(json.dumps(values()))
