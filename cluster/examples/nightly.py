"""One night for any scheduler: give the run to a Ray cluster, follow it, and end with the run's own exit code.

Needs Python 3.11 and nothing else, so the scheduler's machine needs neither Ray nor this repository's packages.
`ray job submit` ends with 1 for every code but 0, so the code is taken from the JSON summary that the run prints last.

    python nightly.py night-2026-11-24 --input s3://photos/shards --output s3://labels/tables

Variables: RAY_API_SERVER_ADDRESS (http://HEAD:8265), RAY_AUTH_TOKEN, NIGHT_TIMEOUT_S (79200), NIGHT_ENTRYPOINT
(python jobs/label.py).
"""

import json
import os
import secrets
import shlex
import sys
import time
import urllib.error
import urllib.request

AGAIN = (1, 130, 143)  # a shard failed, Ray or the store went away, the run was ended: the next try does the rest
NOTHING = (4, 5)  # another run writes, or the night has no images
# 2 and 3, wrong usage and too many rejected images, are for a person: trying again changes nothing.


def run_night(name: str, flags: list[str], timeout_s: float | None = None) -> dict:
    """The summary of one run, with its `exit_code`. A run that leaves no summary has `error` and the process's code.

    The id in Ray is new each time, because Ray refuses one that it knows. The name joins all tries of one night.
    """
    timeout_s = timeout_s or float(os.environ.get("NIGHT_TIMEOUT_S", 79200))
    program = shlex.split(os.environ.get("NIGHT_ENTRYPOINT", "python jobs/label.py"))
    command = [*program, *flags, "--run-name", name, "--summary", "-"]
    job_id = f"{name}-{secrets.token_hex(4)}"
    _ask("POST", "jobs/", {"entrypoint": shlex.join(command), "submission_id": job_id})
    print(f"job {job_id}: {shlex.join(command)}", flush=True)
    deadline = time.monotonic() + timeout_s
    while (job := _ask("GET", f"jobs/{job_id}"))["status"] in ("PENDING", "RUNNING"):
        if time.monotonic() > deadline:
            _ask("POST", f"jobs/{job_id}/stop", {})  # ends in order: the next try does the rest
            raise TimeoutError(f"job {job_id} took more than {timeout_s:.0f} s")
        time.sleep(5)
    logs = _ask("GET", f"jobs/{job_id}/logs")["logs"]
    print(logs, flush=True)
    _, mark, rest = f"\n{logs}".rpartition("\n{\n")  # the last JSON object that begins at the left edge
    if not mark:  # a wrong flag, or a process that was killed
        error = f"job {job_id}: {job['status']}, {job.get('message')}"
        return {"exit_code": job.get("driver_exit_code") or 1, "error": error}
    return json.JSONDecoder().raw_decode("{" + rest)[0]


def _ask(method: str, path: str, body: dict | None = None) -> dict:
    """One request to Ray's job API; tried again for two minutes while the head does not answer."""
    url = f"{os.environ.get('RAY_API_SERVER_ADDRESS', 'http://127.0.0.1:8265')}/api/{path}"
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    for attempt in range(25):
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.loads(reply.read() or b"{}")
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            starting = error.code in (502, 503, 504) or "No available agent" in text  # it starts after the head
            if not starting or attempt == 24:
                raise RuntimeError(f"{method} {url}: {error.code} {text[:500]}") from error
        except OSError:
            if attempt == 24:
                raise
        time.sleep(5)
    raise AssertionError


if __name__ == "__main__":
    summary = run_night(sys.argv[1], sys.argv[2:])
    sys.exit(int(summary["exit_code"]))
