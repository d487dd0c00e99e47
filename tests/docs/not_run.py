"""The blocks of commands that no test runs, by page and first line, each with the reason. All others are run (`test_commands.py`)."""

_CLUSTER = "needs a cluster, a registry or an account; tests/test_cluster.py checks the files"
_SUBMIT = "needs a running cluster; tests/test_label.py submits the same job to one with a token"
_INSTALL = "installs 7 GB; CI runs it"
_BENCH = "takes minutes of an idle machine; tests/bench runs the parts on small inputs"

NOT_RUN: dict[tuple[str, str], str] = {
    ("README.md", "make demo     # creates .venv, installs the pinned packages, labels 19 photographs, asks the tables with DuckDB"):
        _INSTALL + "; the tests' demo is the same program, and `make test` runs this very test",
    ("README.md", "ray job submit --address http://HEAD:8265 --working-dir . -- jobs/label.py --input s3://… --output s3://…"): _SUBMIT,
    ("docs/start.md", "make setup"): _INSTALL,
    ("docs/start.md", "python3 -m venv .venv"): _INSTALL,
    ("docs/start.md", "git pull"): _INSTALL,
    ("docs/operate.md", "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=…      # without a token, Ray's job API runs anybody's code"): _SUBMIT,
    ("docs/performance.md", "make bench PHOTOS=DIR        # installs the rivals, then all parts but `gpu`; DIR has tar shards of JPEGs. "
                            "Six minutes on an idle machine"): _BENCH,
    ("docs/performance.md", "label-images bench decode feed --photos DIR --repeats 3"): _BENCH,
    ("CONTRIBUTING.md", "make setup"): _INSTALL,
    ("CONTRIBUTING.md", "make lint"): "runs all tests; CI runs it",
    ("cluster/README.md", "docker build -f cluster/Dockerfile -t REGISTRY/label:0.1.0-cuda ."): _CLUSTER,
    ("cluster/README.md", "kubectl -n label port-forward service/label-head-svc 8265 &         # the dashboard is on 127.0.0.1:8265; "
                          "it asks for the token"): _CLUSTER,
    ("cluster/README.md", """kubectl -n label create secret generic label-ray-token --from-literal=auth_token="$(openssl rand -hex 32)" \\"""): _CLUSTER,
    ("cluster/README.md", "pip install -c constraints.txt -e . boto3"): _CLUSTER,
}
