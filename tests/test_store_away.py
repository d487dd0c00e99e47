"""The store goes away in the middle of a run: the run ends with its summary."""

import time

import pytest

from tests.support.jobs import SEED, start_label
from tests.support.processes import family, kill, wait_until
from tests.support.tars import make_tar


@pytest.mark.chaos
@pytest.mark.s3
@pytest.mark.parametrize("kind", ["reset", "refused"])
def test_a_store_that_goes_away_in_the_middle_ends_the_run_with_its_summary(s3, proxy, photographs, tmp_path, kind):
    """The endpoint resets every connection, or refuses every request since the credentials have expired."""
    environ, fs = s3
    small = [(name, data) for name, data in photographs if len(data) < 200_000]
    content = make_tar(*((f"{copy}/{name}", data) for copy in range(4) for name, data in small))
    for number in range(20):
        fs.pipe_file(f"photos/away/in/{number:02}.tar", content)
    program = ("import pipeline.run.attempts, runpy, sys; pipeline.run.attempts.AWAY_S = 15; "
               "sys.argv[0] = 'jobs/label.py'; runpy.run_path('jobs/label.py', run_name='__main__')")
    log = tmp_path / "log"
    run = start_label("--input", "s3://photos/away/in", "--output", "s3://photos/away/out", *SEED, "--batch-size", "4",
                      log=log,
                      program=("-c", program), **environ | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"})

    def has_table() -> bool:
        fs.invalidate_cache()
        return any("/labels/" in path for path in fs.find("photos/away/out"))

    try:
        wait_until(lambda: run.poll() is not None or has_table(), "no shard is committed", look_s=0.5)
        assert run.poll() is None, log.read_text()
        proxy.rate, proxy.kinds = 1.0, (kind,)
        begun = time.monotonic()
        code = run.wait(timeout=300)
        text = log.read_text()
        print(f"{kind}: exit {code} {time.monotonic() - begun:.0f} s after the store went away\n{text[-1500:]}")
        assert code == 1 and "Traceback" not in text and "shards    " in text
        assert "the record of this run could not be written" in text
        if kind == "refused":
            assert "The provided token has expired" in text
    finally:
        kill(family(run.pid))
        proxy.rate = 0.0
        fs.rm("photos/away", recursive=True)
