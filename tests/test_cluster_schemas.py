"""The files in cluster/ pass their schemas, hadolint and parliament. Each of these tools finds a planted typo."""

import functools
import importlib.resources
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import botocore.session
import jsonschema
import kubernetes_validate
import pytest
import ray.autoscaler
import yaml
from botocore.validate import ParamValidator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # parliament imports pkg_resources
    import parliament

from tests.support.jobs import ROOT
from tests.support.manifests import CLUSTER, CORE, LAUNCHER, POLICIES, RAY_KINDS, listed, text, walk

KUBERAY = Path(os.environ.get("KUBERAY_SCHEMAS", ROOT.parent / "shared" / "kuberay"))


# What each tool says; an empty list is a pass.

# Kubernetes' published schemas, and KubeRay's, take any string for these.
WORDS = {"concurrencyPolicy": {"Allow", "Forbid", "Replace"}, "restartPolicy": {"Always", "OnFailure", "Never"},
         "effect": {"NoSchedule", "PreferNoSchedule", "NoExecute"}, "protocol": {"TCP", "UDP", "SCTP"},
         "operator": {"Exists", "Equal", "In", "NotIn", "DoesNotExist"}, "policyTypes": {"Ingress", "Egress"},
         "serviceType": {"ClusterIP"}, "submissionMode": {"K8sJobMode"}, "type": {"RuntimeDefault"}}


def unknown_words(document) -> list[str]:
    return [f"{key}: {value}" for node in walk(document) for key, values in node.items() if key in WORDS
            for value in listed(values) if value not in WORDS[key]]


@functools.cache
def kuberay_schema(kind: str) -> dict:
    file = KUBERAY / f"{kind}-v1.schema.json"
    if not file.exists():
        pytest.skip(f"no KubeRay schema {file}: put the schemas there, or name their folder in KUBERAY_SCHEMAS")
    return json.loads(file.read_text())


def told_by_kuberay(name: str, source: str) -> list[str]:
    validator = jsonschema.Draft202012Validator(kuberay_schema(name))
    found = list(yaml.safe_load_all(source))
    return [error.message for document in found for error in validator.iter_errors(document)] + unknown_words(found)


def told_by_kubernetes(_name: str, source: str) -> list[str]:
    found = []
    for document in yaml.safe_load_all(source):
        try:
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(error.message)
        found += unknown_words(document)
    return found


@functools.cache
def run_instances():
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def told_by_ray(_name: str, source: str) -> list[str]:
    """Ray's schema; and EC2's, for Ray's says nothing of `node_config`."""
    schema = json.loads((importlib.resources.files(ray.autoscaler) / "ray-schema.json").read_text())
    config = yaml.safe_load(source)
    found = [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(config)]
    for node in config.get("available_node_types", {}).values():
        report = ParamValidator().validate(node.get("node_config", {}) | {"MinCount": 1, "MaxCount": 1},
                                           run_instances())
        found += [report.generate_report()] if report.has_errors() else []
    return found


def told_by_hadolint(_name: str, source: str) -> list[str]:
    done = subprocess.run([Path(sys.executable).parent / "hadolint", "--no-color", "-"], input=source, text=True,
                          capture_output=True, timeout=60, check=False)
    found = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 0 or found
    return found


# parliament knows no trust policies: these have no Resource, and conditions that are named after the cluster.
OF_A_TRUST_POLICY = r"UNKNOWN_FEDERATION_SOURCE|RESOURCE_STAR|UNKNOWN_CONDITION_FOR_ACTION .*/id/EXAMPLE:(aud|sub) for"


def told_by_parliament(name: str, source: str) -> list[str]:
    document = json.loads(source)
    if name == "trust-policy":
        for statement in document["Statement"]:
            statement["Resource"] = "*"
    findings = parliament.analyze_policy_string(json.dumps(document)).findings
    found = [f"{finding.issue} {finding.detail}" for finding in findings]
    return [line for line in found if name != "trust-policy" or not re.match(OF_A_TRUST_POLICY, line)]


FILES = {**{name: (told_by_kuberay, text(name)) for name in RAY_KINDS},
         **{name: (told_by_kubernetes, text(name)) for name in CORE},
         LAUNCHER: (told_by_ray, text(LAUNCHER)),
         "Dockerfile": (told_by_hadolint, (CLUSTER / "Dockerfile").read_text()),
         **{name: (told_by_parliament, (CLUSTER / "iam" / f"{name}.json").read_text()) for name in POLICIES}}
TYPOS = [
    *((name, "containers:", "contaners:") for name in RAY_KINDS),
    *((name, "secretName:", "secretname:") for name in RAY_KINDS),
    *((name, "mode: token", "mode: tokn") for name in RAY_KINDS),
    ("raycluster", "minReplicas: 1", "minReplicas: one"),
    ("rayjob", "shutdownAfterJobFinishes", "shutdownAfterJobFinished"),
    ("raycronjob", "schedule:", "shedule:"),
    ("cronjob", "concurrencyPolicy: Forbid", "concurrencyPolicy: Forbidden"),
    ("cronjob", "containers:", "contaners:"),
    ("cronjob", "secretKeyRef:", "secretRef:"),
    ("networkpolicy", "podSelector:", "podselector:"),
    ("networkpolicy", "policyTypes: [Ingress, Egress]", "policyTypes: [Ingress, Egres]"),
    ("raycluster", "effect: NoSchedule", "effect: NoShedule"),
    ("serviceaccount", "annotations:", "anotations:"),
    (LAUNCHER, "head_node_type:", "head_node_typ:"),
    (LAUNCHER, "setup_commands:", "setup_command:"),
    (LAUNCHER, "MarketType: spot", "MarketTyp: spot"),
    ("Dockerfile", "WORKDIR /app", "WORKDIR app"),
    ("Dockerfile", "RUN useradd", "RUN apt-get update && apt-get install -y wget\nRUN useradd"),
    ("Dockerfile", "python:3.12.12-slim-trixie", "python:latest"),
    ("Dockerfile", "COPY jobs", "COPPY jobs"),
    ("job-policy", "s3:GetObject", "s3:GetObjct"),
    ("job-policy", "s3:prefix", "s3:prefx"),
    ("job-policy", "Effect", "Efect"),
    ("launcher-policy", "ec2:RunInstances", "ec2:RunInstance"),
    ("trust-policy", "sts:AssumeRoleWithWebIdentity", "sts:AssumeRoleWithWebIdentiy"),
]


@pytest.mark.parametrize("name", FILES)
def test_file_is_valid(name):
    tool, source = FILES[name]
    assert tool(name, source) == []


@pytest.mark.parametrize(("name", "right", "wrong"), TYPOS)
def test_planted_typo_is_caught(name, right, wrong):
    tool, source = FILES[name]
    assert right in source
    assert tool(name, source.replace(right, wrong, 1))


def test_every_file_is_looked_at():
    # test_monitoring.py checks the last three; test_image.py builds the image; test_schedulers.py has the examples.
    others = {"README.md", "SCALE.md", "build_image.sh", "alerts.yml", "alerts_test.yml", "dashboard"}
    assert {path.stem if path.suffix in (".yaml", ".json") else path.name
            for path in CLUSTER.rglob("*") if path.is_file() and "examples" not in path.parts} - others == set(FILES)
    assert set(FILES) == {name for name, *_ in TYPOS}
