"""The blocks of commands that no test runs, by page and first command, each with the reason.

All other blocks are run by `test_commands.py`.
"""

_CLUSTER = "needs a cluster, a registry or an account; tests/test_cluster.py checks the files"
_SUBMIT = "needs a running cluster; tests/test_label.py submits the same job to one with a token"
_INSTALL = "installs 7 GB; CI runs it"
_BENCH = "takes minutes of an idle machine; tests/bench runs the parts on small inputs"
_SECRET = (
    'kubectl -n label create secret generic label-ray-token --from-literal=auth_token="$(openssl rand -hex 32)" \\'
)

NOT_RUN: dict[tuple[str, str], str] = {
    (
        "docs/lakes.md",
        "export PYICEBERG_CATALOG__LABELS__URI=https://catalog.example.com",
    ): "needs a catalog; tests/lake sets the same variables for a catalog in a file",
    (
        "README.md",
        "make demo",
    ): "installs 7 GB and runs all tests; the tests' demo is the same program as that of make demo",
    (
        "README.md",
        "ray job submit --address http://HEAD:8265 --working-dir . -- jobs/label.py --input s3://… --output s3://…",
    ): _SUBMIT,
    ("CONTRIBUTING.md", "make setup"): _INSTALL,
    ("CONTRIBUTING.md", "make lint"): "runs all tests; CI runs it",
    ("docs/start.md", "make setup"): _INSTALL,
    ("docs/start.md", "python3 -m venv .venv"): _INSTALL,
    ("docs/start.md", "git pull"): _INSTALL,
    (
        "docs/start.md",
        "export AWS_ENDPOINT_URL=http://127.0.0.1:8333 AWS_ACCESS_KEY_ID=mine AWS_SECRET_ACCESS_KEY=secret",
    ): "starts a server at fixed ports; the page README.md runs on the same server at free ports",
    ("docs/operate.md", "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=…"): _SUBMIT,
    ("docs/performance.md", "make bench PHOTOS=DIR"): _BENCH,
    ("docs/performance.md", "label-images bench decode feed --photos DIR --repeats 3"): _BENCH,
    ("cluster/README.md", "make image IMAGE=REGISTRY/label:0.1.0-cuda"): _CLUSTER,
    ("cluster/README.md", "kubectl -n label port-forward service/label-head-svc 8265 &"): _CLUSTER,
    ("cluster/README.md", _SECRET): _CLUSTER,
    ("cluster/README.md", "pip install -c constraints.txt -e . boto3"): _CLUSTER,
}

# Run by `make training` alone: a training needs minutes for its start on two cores.
TRAINING = (
    "docs/own-classes.md",
    "label-images train --input digits/ --truth folder --save whole/ --epochs 1 --image-size 75 --batch-size 8 "
    "--learning-rate 0.01 \\",
)
