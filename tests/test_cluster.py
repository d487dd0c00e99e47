"""The files in cluster/ agree with each other and with the job. No schema checks this."""

import copy
import fnmatch
import json
import re
import shlex
import subprocess

import pytest
import yaml

from tests.support.config import parse_config
from tests.support.jobs import ROOT
from tests.support.manifests import CLUSTER, JOBS, LAUNCHER, MANIFESTS, PODS, RAY_KINDS, listed, policy, text, walk


@pytest.mark.parametrize("name", JOBS)
def test_entrypoint_is_one_the_job_takes(name):
    found = [line for node in walk(MANIFESTS[name]) for line in (node.get("entrypoint"), *node.get("args", ())) if line]
    [(_, options)] = re.findall(r"(python jobs/label\.py) (.*)", found[0].replace("\n", " "))
    config = parse_config(shlex.split(options.replace("$(date -u +%Y-%m-%d)", "2026-11-24")), {})
    places = {f"arn:aws:s3:::{uri.removeprefix('s3://')}/*" for uri in (config.input, config.output)}
    assert len(found) == 1
    assert places <= {resource for statement in policy("job-policy")["Statement"] if statement["Effect"] == "Allow"
                      for resource in listed(statement["Resource"])}


def test_nights_keep_their_date_and_have_one_cluster():
    [cron], [cluster] = MANIFESTS["cronjob"], MANIFESTS["raycluster"]
    [command] = next(node["args"] for node in walk(cron) if "args" in node)
    assert f"http://{cluster['metadata']['name']}-head-svc:8265" in command  # KubeRay's name of the head's service
    hour = int(cron["spec"]["schedule"].split()[1])
    assert cron["spec"]["timeZone"] == "Etc/UTC"
    # The latest start that Kubernetes catches up is still on the date of that night.
    assert hour * 3600 + cron["spec"]["startingDeadlineSeconds"] < 86400
    assert MANIFESTS["raycronjob"][0]["spec"]["jobTemplate"] == MANIFESTS["rayjob"][0]["spec"]


def test_tonight_at_once_has_an_id_of_its_own(tmp_path):
    """Whatever the hour, it does not take the id of the schedule's night, nor that the id of tonight at once."""
    [cron] = MANIFESTS["cronjob"]
    [container] = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert {"name": "JOB_NAME", "valueFrom": {"fieldRef": {
        "fieldPath": "metadata.labels['batch.kubernetes.io/job-name']"}}} in container["env"]
    (tmp_path / "ray").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "ray").chmod(0o755)
    ids, names = [], []
    for name in ("label-nightly-29384", "tonight"):
        given = subprocess.run([*container["command"], *container["args"]], capture_output=True, text=True, check=True,
                               env={"PATH": f"{tmp_path}:/usr/bin:/bin", "JOB_NAME": name}).stdout.splitlines()
        ids.append(given[given.index("--submission-id") + 1])
        names.append(given[given.index("--run-name") + 1])
    assert ids == [f"{names[0]}-label-nightly-29384", f"{names[1]}-tonight"] and names[0].startswith("night-20")


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
