"""What the tests share: where things are, and how the chart is rendered."""

import base64
import json
import re
import subprocess
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
CHART = HERE.parent
ROOT = CHART.parent.parent
CASES = sorted((CHART / "ci").glob("*-values.yaml"))
NAMESPACE = "image-mirror"


class HelmError(Exception):
    """Helm refused; its words."""


def helm(*arguments, env=None):
    """What helm prints."""
    done = subprocess.run(["helm", *map(str, arguments)], capture_output=True, text=True, env=env, check=False)
    if done.returncode != 0:
        raise HelmError(done.stderr + done.stdout)
    return done.stdout


def render_text(*arguments, release="image-mirror", namespace=NAMESPACE, env=None):
    """The manifests as helm writes them."""
    return helm("template", release, CHART, "--namespace", namespace, *arguments, env=env)


def render(*arguments, **options):
    """The objects, by kind and name."""
    return objects(render_text(*arguments, **options))


def objects(text):
    """The objects of a manifest, by kind and name."""
    parsed = [item for item in yaml.safe_load_all(text) if item]
    result = {(item["kind"], item["metadata"]["name"]): item for item in parsed}
    assert len(result) == len(parsed), "an object is there twice"
    return result


def only(found, kind):
    """The one object of this kind."""
    [item] = [item for (its_kind, _), item in found.items() if its_kind == kind]
    return item


def decoded(secret):
    """The data of a Secret."""
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def environment(found):
    """The variables of the sidecar that are given as text."""
    [container] = only(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {variable["name"]: variable.get("value") for variable in container["env"]}


def values(path):
    return yaml.safe_load(Path(path).read_text())


def defaults():
    return values(CHART / "values.yaml")


def schema():
    return json.loads((CHART / "values.schema.json").read_text())


def source(*patterns):
    """The text of files of this project."""
    return "\n".join(path.read_text() for pattern in patterns for path in sorted(ROOT.glob(pattern)))


def words(pattern, text):
    return set(re.findall(pattern, text))
