"""The image: built by whichever tool works here, and the job in it, as Kubernetes runs it: uid 1000, a read-only root.

Where no registry can be reached, IMAGE_FLAGS has the flags of `build` that this machine needs: another base (`--from`
of buildah and podman), mounts for pip, and the like. IMAGE names an image that is there already.
"""

import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.support.jobs import ROOT, WEIGHTS, labels, make_weights
from tests.support.tars import make_tar

pytestmark = [pytest.mark.image, pytest.mark.slow]
MAX_CPU_GB, SHM_MB = 2.0, 64  # the container's default


def find_tool() -> str:
    for tool in ("docker", "podman", "buildah"):
        if shutil.which(tool) and subprocess.run([tool, "info"], capture_output=True, check=False).returncode == 0:
            return tool
    pytest.skip("no docker, podman or buildah works here")


@pytest.fixture(scope="module")
def image() -> tuple[str, str]:
    """The tool and the image."""
    tool = find_tool()
    if name := os.environ.get("IMAGE"):
        return tool, name
    name = "localhost/label:test"
    flags = os.environ.get("IMAGE_FLAGS", "").split()
    subprocess.run([ROOT / "cluster/build_image.sh", name, *flags], check=True, timeout=3000)
    return tool, name


def run_inside(tool: str, image: str, command: list[str], mount: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as uid 1000, with a read-only root, an empty /tmp, a small /dev/shm, and `mount` at /data."""
    if tool in ("docker", "podman"):
        flags = ["--rm", "--read-only", "--user", "1000:1000", "--tmpfs", "/tmp:exec", f"--shm-size={SHM_MB}m",
                 "--network", "none", "-v", f"{mount}:/data"]
        return subprocess.run([tool, "run", *flags, image, *command], capture_output=True, text=True, timeout=580,
                              check=False)
    container = f"label-{uuid.uuid4().hex[:8]}"
    subprocess.run(["buildah", "from", "--name", container, image], check=True, capture_output=True)
    try:
        mounted = subprocess.run(["buildah", "mount", container], check=True, capture_output=True, text=True)
        root = mounted.stdout.strip()
        config = json.loads(subprocess.run(["buildah", "inspect", "--type", "image", image], check=True,
                                           capture_output=True, text=True).stdout)["OCIv1"]["config"]
        script = f"""
set -e
mount --rbind {root} {root} && mount -o remount,bind,ro {root}
mount -t tmpfs tmpfs {root}/tmp && mount -t proc proc {root}/proc
mount --rbind /dev {root}/dev && mount -t tmpfs -o size={SHM_MB}m tmpfs {root}/dev/shm
mkdir -p /tmp/empty {root}/tmp/home && mount --bind {mount} {root}/srv
chmod 1777 {root}/tmp {root}/dev/shm && chown 1000:1000 {root}/tmp/home
exec chroot --userspec=1000:1000 {root} /usr/bin/env -i HOME=/tmp/home {' '.join(config['Env'])} \\
  sh -c 'cd {config.get("WorkingDir") or "/"} && exec "$@"' sh "$@"
"""
        inside = [part.replace("/data", "/srv") for part in command]
        return subprocess.run(["unshare", "--mount", "--pid", "--fork", "--net", "sh", "-c",
                               f"ip link set lo up 2>/dev/null; {script}", "sh", *inside], capture_output=True,
                              text=True, timeout=580, check=False)
    finally:
        subprocess.run(["buildah", "rm", container], capture_output=True, check=False)


def test_the_job_in_the_image(image, photographs, tmp_path):
    tool, name = image
    make_weights()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.tar").write_bytes(make_tar(*((f"{copy}/{member}", data) for copy in range(6)
                                                   for member, data in photographs if len(data) < 400_000)))
    shutil.copy(WEIGHTS, tmp_path / "weights.safetensors")
    for path in (tmp_path, tmp_path / "in", *tmp_path.rglob("*")):
        path.chmod(0o777)
    command = ["python", "jobs/label.py", "--input", "/data/in", "--output", "/data/out", "--weights",
               "/data/weights.safetensors", "--precision", "fp32", "--device", "cpu"]
    done = run_inside(tool, name, command, tmp_path)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 labelled, 0 skipped (done before), 0 failed" in done.stdout
    assert f"/dev/shm has {SHM_MB * 2**20 / 1e6:,.0f} MB, and Ray wants" in done.stderr
    assert len(labels(tmp_path / "out")) >= 30
    refused = run_inside(tool, name, ["sh", "-c", "id -u; touch /app/x"], tmp_path)
    assert refused.stdout.split() == ["1000"] and "Read-only" in refused.stderr


def test_the_size_of_the_image(image):
    """A CPU image has less than 2 GB; of a CUDA image most is NVIDIA's libraries and torch."""
    tool, name = image
    script = "du -sm / --exclude=/proc --exclude=/sys --exclude=/srv 2>/dev/null | cut -f1; " \
             "python -c 'import torch; print(torch.version.cuda)'; " \
             "du -sm /usr/local/lib/python3*/*-packages/* 2>/dev/null | sort -rn | head -n 12"
    done = run_inside(tool, name, ["sh", "-c", script], ROOT / "docs")
    print(done.stdout, done.stderr)
    megabytes, cuda = done.stdout.split()[:2]
    assert cuda != "None" or int(megabytes) < 1000 * MAX_CPU_GB
