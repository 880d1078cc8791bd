"""Evaluates a ValidatingAdmissionPolicy of the chart by Google's CEL, as an API server does by its own."""

import functools

from cel_expr_python import cel

from support import NAMESPACE, render

NAMES = ("request", "object", "oldObject", "variables")
# The repository and the pull Secret of the fixtures.
FLAGS = (
    "--set",
    "registry.host=registry.example.com",
    "--set",
    "registry.repository=acme/mirror",
    "--set",
    "pull.existingSecret=a",
    "--set",
    "admissionPolicies.enabled=true",
)
SIDECAR = f"system:serviceaccount:{NAMESPACE}:mirror-sidecar"


@functools.cache
def compiled(expression):
    return cel.NewEnv(variables={name: cel.Type.DYN for name in NAMES}).compile(expression)


def evaluate(expression, data):
    """What an expression is; it must be possible to evaluate it."""
    result = compiled(expression).eval(data=data)
    if result.type() == cel.Type.ERROR:
        raise AssertionError(f"{expression}: {result.value()}")
    return result.plain_value()


class Policy:
    """A rendered policy."""

    def __init__(self, name, *flags):
        self.spec = render(*FLAGS, *flags)["ValidatingAdmissionPolicy", f"image-mirror-{name}"]["spec"]

    def concerns(self, data):
        return all(evaluate(condition["expression"], data) for condition in self.spec["matchConditions"])

    def refusals(self, operation, before, after, kind="Secret", user=SIDECAR, **fields):
        """The messages with which it refuses a request; nothing if it lets it pass, or does not look at it."""
        request = {"operation": operation, "kind": {"kind": kind}, "userInfo": {"username": user}, **fields}
        data = {"request": request, "object": after, "oldObject": before, "variables": {}}
        if not self.concerns(data):
            return None
        for variable in self.spec["variables"]:
            data["variables"][variable["name"]] = evaluate(variable["expression"], data)
        return [rule["message"] for rule in self.spec["validations"] if not evaluate(rule["expression"], data)]
