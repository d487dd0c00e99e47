"""Alert rules and dashboard ask for existing series, in PromQL that parses, and the rules fire when they should."""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import promql_parser
import pytest
import yaml

from pipeline.run.metrics import COUNTERS, GAUGES
from tests.support.jobs import ROOT

FOLDER = ROOT / "cluster"
OURS = {f"ray_label_{name}_total" for name in COUNTERS} | {f"ray_label_{name}" for name in GAUGES}
FOREIGN = {"kube_cronjob_status_last_successful_time"}
PROMTOOL = shutil.which("promtool") or next(map(str, Path(sys.executable).parent.glob("promtool")), None)


def expressions() -> list[str]:
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    panels = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    return [rule["expr"] for rule in rules] + [target["expr"] for panel in panels for target in panel["targets"]]


def unknown(expression: str) -> set[str]:
    """Series that neither we nor Ray export; raises ValueError if it is no PromQL."""
    promql_parser.parse(expression)
    names = set(re.findall(r"\b((?:ray|kube)_\w+)", expression))
    return {name for name in names - OURS - FOREIGN if f'"{name.removeprefix("ray_")}"' not in ray_source()}


def ray_source() -> str:
    """Where Ray names the series of nodes and of Ray Data."""
    spec = find_spec("ray")
    assert spec and spec.origin
    folder = Path(spec.origin).parent
    return "".join((folder / path).read_text(encoding="utf-8")
                   for path in ("data/_internal/stats.py", "dashboard/modules/reporter/reporter_agent.py"))


@pytest.mark.parametrize("expression", expressions())
def test_series_are_there(expression):
    assert unknown(expression) == set()


def test_all_of_ours_are_shown():
    assert {name for name in OURS if name in " ".join(expressions())} == OURS


def test_typos_are_caught():
    assert unknown("rate(ray_label_image_total[2m]) + ray_data_outputs_bytes") == {
        "ray_label_image_total", "ray_data_outputs_bytes"}
    with pytest.raises(ValueError, match=r"."):
        unknown("sum by (run_id (ray_label_images_total)")


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool is installed")
def test_rules_fire_when_they_should(tmp_path):
    done = subprocess.run([str(PROMTOOL), "test", "rules", FOLDER / "alerts_test.yml"], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("alerts.yml", "alerts_test.yml"):
        text = (FOLDER / name).read_text(encoding="utf-8").replace("> 20 * 60", "> 40 * 60")
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert subprocess.run([str(PROMTOOL), "test", "rules", tmp_path / "alerts_test.yml"], capture_output=True,
                          check=False).returncode


def test_the_dashboard_is_whole():
    board = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) == 12
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]}
    assert len(places) == 12 and all(panel["datasource"]["uid"] == "${source}" for panel in board["panels"])
    assert {variable["name"] for variable in board["templating"]["list"]} == {"source", "run"}
