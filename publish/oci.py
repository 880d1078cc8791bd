#!/usr/bin/env python3
"""Builds the image of mirror-sidecar as an OCI archive, without a container engine.

Usage: oci.py <architecture> <root folder> <archive>

The root folder is what image-root.sh laid out; everything else is read from the last stage of the Dockerfile, so that both
ways give the same image. VERSION, REVISION and CREATED are the Dockerfile's arguments. The same input gives the same bytes:
names are sorted, owners are 0, all times are SOURCE_DATE_EPOCH (by default that of CREATED).
"""

import gzip
import hashlib
import io
import json
import os
import re
import shlex
import sys
import tarfile
from datetime import datetime
from pathlib import Path

DOCKERFILE = Path(__file__).resolve().parent.parent / "Dockerfile"
# The annotation by which tools find the name of an image in an archive.
NAME = "org.opencontainers.image.ref.name"
TYPE = "application/vnd.oci.image."


def main(architecture, root, archive):
    arguments = {name: os.environ.get(name, "") for name in ("VERSION", "REVISION", "CREATED")}
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or datetime.fromisoformat(arguments["CREATED"]).timestamp()
    Path(archive).write_bytes(build(architecture, Path(root), DOCKERFILE.read_text(), arguments, int(epoch)))


def build(architecture, root, dockerfile, arguments, time):
    """The archive's bytes."""
    settings = last_stage(dockerfile, arguments)
    layer = tar(sorted((str(path.relative_to(root)), path) for path in root.rglob("*")), time)
    # The time and the name of the file stay out of it, and so does the system in the header's last byte.
    packed = gzip.compress(layer, compresslevel=9, mtime=0)
    labels = settings["Labels"]
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": labels["org.opencontainers.image.created"],
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        "history": [{"created": labels["org.opencontainers.image.created"], "created_by": "publish/oci.py"}],
    }
    blobs = {}
    manifest = {
        "schemaVersion": 2,
        "mediaType": TYPE + "manifest.v1+json",
        "config": add(blobs, TYPE + "config.v1+json", to_json(config)),
        "layers": [add(blobs, TYPE + "layer.v1.tar+gzip", packed)],
        "annotations": labels,
    }
    root_entry = add(blobs, TYPE + "manifest.v1+json", to_json(manifest))
    root_entry["platform"] = {"architecture": architecture, "os": "linux"}
    root_entry["annotations"] = {NAME: "v" + labels["org.opencontainers.image.version"]}
    index = {"schemaVersion": 2, "mediaType": TYPE + "index.v1+json", "manifests": [root_entry]}
    files = {"oci-layout": to_json({"imageLayoutVersion": "1.0.0"}), "index.json": to_json(index)}
    files.update({f"blobs/sha256/{name}": content for name, content in blobs.items()})
    return tar(sorted(files.items()), time)


def last_stage(dockerfile, arguments):
    """The image's configuration, as the last stage of the Dockerfile says. What is not understood is an error."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.M).replace("\\\n", " ")
    stages = re.split(r"^FROM ", text, flags=re.M)
    base, *lines = [line for line in stages[-1].splitlines() if line.strip()]
    if base != "scratch":
        raise ValueError(f"the last stage begins with {base}, not with nothing")
    labels, settings, copies = {}, {}, []
    for line in lines:
        word, rest = line.split(maxsplit=1)
        if word == "ARG":
            if rest not in arguments:
                raise ValueError(f"nobody says what the argument {rest} is")
        elif word == "LABEL":
            for pair in shlex.split(rest):
                key, value = pair.split("=", 1)
                labels[key] = re.sub(r"\$(\w+)", lambda match: arguments[match[1]], value)
        elif word == "USER":
            settings["User"] = rest
        elif word == "ENTRYPOINT":
            settings["Entrypoint"] = json.loads(rest)
        elif word == "COPY":
            copies.append(rest)
        else:
            raise ValueError(f"{word} is not understood here: {line}")
    if copies != ["--from=build /image/ /"]:
        raise ValueError(f"the last stage copies something else than the root folder: {copies}")
    # What Docker sets in every image.
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {**settings, "Env": [path], "WorkingDir": "/", "Labels": labels}


def tar(entries, time):
    """A tar of these (name, bytes or path) in their order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.mtime = time
            if isinstance(content, Path) and content.is_dir():
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
                continue
            executable = isinstance(content, Path) and content.stat().st_mode & 0o100
            info.mode = 0o755 if executable else 0o644
            data = content.read_bytes() if isinstance(content, Path) else content
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def add(blobs, media_type, content):
    """Keeps a blob and gives its descriptor."""
    name = digest(content)
    blobs[name.removeprefix("sha256:")] = content
    return {"mediaType": media_type, "digest": name, "size": len(content)}


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def to_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
