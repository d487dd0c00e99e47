"""The files in cluster/, parsed."""

import json

import yaml

from tests.support.jobs import ROOT

CLUSTER = ROOT / "cluster"
RAY_KINDS = ("raycluster", "rayjob", "raycronjob")
CORE = ("cronjob", "networkpolicy", "serviceaccount")
JOBS = ("rayjob", "raycronjob", "cronjob")
LAUNCHER = "ray-up-aws"
POLICIES = ("job-policy", "launcher-policy", "trust-policy")


def text(name: str) -> str:
    return (CLUSTER / f"{name}.yaml").read_text()


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all(text(name)))


def policy(name: str) -> dict:
    return json.loads((CLUSTER / "iam" / f"{name}.json").read_text())


def walk(node):
    """Every mapping in a document."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(child)


def listed(value) -> list:
    return value if isinstance(value, list) else [value]


MANIFESTS = {name: documents(name) for name in (*RAY_KINDS, *CORE)}
PODS = [(name, pod) for name, found in MANIFESTS.items() for pod in walk(found) if "containers" in pod]
