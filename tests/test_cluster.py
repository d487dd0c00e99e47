"""The files in cluster/ pass their schemas, hadolint and parliament. Each of these tools finds a planted typo."""

import copy
import fnmatch
import functools
import importlib.resources
import json
import os
import re
import shlex
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

from pipeline.config import parse_config

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports pkg_resources
    import parliament

from tests.support.jobs import ROOT

CLUSTER = ROOT / "cluster"
KUBERAY = Path(os.environ.get("KUBERAY_SCHEMAS", ROOT.parent / "shared" / "kuberay"))
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
    """Every mapping in it."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(child)


def listed(value) -> list:
    return value if isinstance(value, list) else [value]


MANIFESTS = {name: documents(name) for name in (*RAY_KINDS, *CORE)}
PODS = [(name, pod) for name, found in MANIFESTS.items() for pod in walk(found) if "containers" in pod]


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
    # test_monitoring.py checks the last three.
    others = {"README.md", "SCALE.md", "alerts.yml", "alerts_test.yml", "dashboard"}
    assert {path.stem if path.suffix in (".yaml", ".json") else path.name
            for path in CLUSTER.rglob("*") if path.is_file()} - others == set(FILES)
    assert set(FILES) == {name for name, *_ in TYPOS}


# What no schema knows: that the files agree with each other and with the job.

@pytest.mark.parametrize("name", JOBS)
def test_entrypoint_is_one_the_job_takes(name):
    found = [line for node in walk(MANIFESTS[name]) for line in (node.get("entrypoint"), *node.get("args", ())) if line]
    [(_, options)] = re.findall(r"(python jobs/label\.py) (.*)", found[0].replace("\n", " "))
    config = parse_config(shlex.split(options.replace("$(date -u +%Y-%m-%d)", "2026-11-24")), {}, "")
    places = {f"arn:aws:s3:::{uri.removeprefix('s3://')}/*" for uri in (config.input, config.output)}
    assert len(found) == 1
    assert places <= {resource for statement in policy("job-policy")["Statement"] if statement["Effect"] == "Allow"
                      for resource in listed(statement["Resource"])}


def test_nights_have_one_id_and_one_cluster():
    [cron], [cluster] = MANIFESTS["cronjob"], MANIFESTS["raycluster"]
    [command] = next(node["args"] for node in walk(cron) if "args" in node)
    assert f"http://{cluster['metadata']['name']}-head-svc:8265" in command  # KubeRay's name of the head's service
    assert '--submission-id "night-$(date -u +%Y-%m-%d)"' in command
    hour = int(cron["spec"]["schedule"].split()[1])
    assert cron["spec"]["timeZone"] == "Etc/UTC"
    # The latest start that Kubernetes catches up is still on the date of that night.
    assert hour * 3600 + cron["spec"]["startingDeadlineSeconds"] < 86400
    assert MANIFESTS["raycronjob"][0]["spec"]["jobTemplate"] == MANIFESTS["rayjob"][0]["spec"]


@pytest.mark.parametrize(("name", "pod"), PODS)
def test_pod_is_confined(name, pod):
    [account] = MANIFESTS["serviceaccount"]
    assert pod.get("serviceAccountName", account["metadata"]["name"]) == account["metadata"]["name"]
    for container in pod["containers"]:
        rights = container["securityContext"]
        assert (rights["runAsNonRoot"], rights["runAsUser"], rights["allowPrivilegeEscalation"]) == (True, 1000, False)
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]["limits"]) == set(container["resources"]["requests"]) >= {"cpu", "memory"}
        assert re.search(r":\d+\.\d+\.\d+(-\w+)?$", container["image"])  # never latest, nor none
        assert "env" not in container or {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]


def test_names_are_those_of_others():
    nodes = [node for found in MANIFESTS.values() for node in walk(found)]
    secrets = {node["secretName"] for node in nodes if "secretName" in node}
    keys = {(node["secretKeyRef"]["name"], node["secretKeyRef"]["key"]) for node in nodes if "secretKeyRef" in node}
    [made] = set(re.findall(r"create secret generic (\S+) --from-literal=(\w+)=", (CLUSTER / "README.md").read_text()))
    assert keys == {made} and secrets == {made[0]}
    namespaces = {found["metadata"].get("namespace") for manifest in MANIFESTS.values() for found in manifest}
    [account] = MANIFESTS["serviceaccount"]
    [trusted] = policy("trust-policy")["Statement"]
    assert namespaces == {account["metadata"]["namespace"]}
    assert f"system:serviceaccount:{account['metadata']['namespace']}:{account['metadata']['name']}" \
        in trusted["Condition"]["StringEquals"].values()
    parts = {node["metadata"]["labels"]["part"] for node in nodes if "containers" in node.get("spec", ())}
    chosen = {part for found in MANIFESTS["networkpolicy"] for node in walk(found)
              for part in (*listed(node.get("part", [])), *(node["values"] if node.get("key") == "part" else ()))}
    assert parts == chosen == {"head", "worker", "submit"}
    assert all(node["metadata"]["labels"]["app"] == "label" for node in nodes if "containers" in node.get("spec", ()))
    launcher = yaml.safe_load(text(LAUNCHER))
    assert f"role/{launcher['available_node_types']['gpu']['node_config']['IamInstanceProfile']['Name']}" \
        in json.dumps(policy("launcher-policy"))
    assert f'"aws:ResourceTag/ray-cluster-name": "{launcher["cluster_name"]}"' in json.dumps(policy("launcher-policy"))


def test_heads_take_no_work():
    for name in RAY_KINDS:
        [head] = [node["headGroupSpec"] for node in walk(MANIFESTS[name]) if "headGroupSpec" in node]
        assert head["rayStartParams"]["num-cpus"] == "0"
        [version] = [node["rayVersion"] for node in walk(MANIFESTS[name]) if "rayVersion" in node]
        assert f"ray=={version}\n" in (ROOT / "constraints.txt").read_text()
    launcher = yaml.safe_load(text(LAUNCHER))
    assert not any(launcher["available_node_types"][launcher["head_node_type"]]["resources"].values())
    assert "--num-cpus=0 --num-gpus=0" in launcher["head_start_ray_commands"][-1]
    starts = (launcher["head_start_ray_commands"][-1], launcher["worker_start_ray_commands"][-1])
    assert all("RAY_AUTH_MODE=token" in start for start in starts)


def allows(statements: list[dict], action: str, resource: str) -> bool:
    """As IAM decides, but for conditions: those only narrow what is allowed here."""
    effects = {statement["Effect"] for statement in statements
               if any(fnmatch.fnmatchcase(action, pattern) for pattern in listed(statement["Action"]))
               and any(fnmatch.fnmatchcase(resource, pattern) for pattern in listed(statement["Resource"]))}
    return effects == {"Allow"}


def test_job_cannot_delete_its_input():
    statements = policy("job-policy")["Statement"]
    tables = "arn:aws:s3:::example-labels/tables"
    for action, resource, allowed in (
            ("s3:GetObject", "arn:aws:s3:::example-photos/shards/a.tar", True),
            ("s3:GetObject", "arn:aws:s3:::example-photos/else", False),
            ("s3:PutObject", "arn:aws:s3:::example-photos/shards/a.tar", False),
            ("s3:DeleteObject", "arn:aws:s3:::example-photos/shards/a.tar", False),
            ("s3:DeleteObjectVersion", "arn:aws:s3:::example-photos/shards/a.tar", False),
            ("s3:PutObject", f"{tables}/labels/model=m/a.tar.parquet", True),
            ("s3:DeleteObject", f"{tables}/labels/model=m/a.tar.parquet", False),
            ("s3:DeleteObject", f"{tables}/_staging/run/a.tar/v/0", True),
            ("s3:DeleteObject", f"{tables}/lease.json", True)):
        assert allows(statements, action, resource) == allowed, (action, resource)
    # The Deny stands by itself: with all else allowed, it still holds.
    wide = [*copy.deepcopy(statements), {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]
    assert not allows(wide, "s3:DeleteObject", "arn:aws:s3:::example-photos/shards/a.tar")


def test_image_is_of_files_that_docker_is_given():
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    copied = {source for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE) for source in line.split()}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    mounted = {source for source in yaml.safe_load(text(LAUNCHER))["file_mounts"].values()
               if not source.startswith("~")}
    assert copied == kept == mounted == {name for name in kept if (ROOT / name).exists()}
    assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE)[-1] == "1000:1000"
