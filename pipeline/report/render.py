"""The report of a run: one HTML file that needs no network and runs no script.

In: the row of the run, the findings of the run, and the row of the run before. Out: the text of
`<output>/reports/<run_id>.html`. Jinja2 escapes keys and labels, and the page forbids itself scripts and requests.
Not here: where the file is put.
"""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from typing import Any

import jinja2

from pipeline.report.charts import draw_confidence, draw_throughput
from pipeline.report.findings import Findings, spent_seconds
from pipeline.tables.counts import Counts

FREQUENT = 20  # labels in the histogram
PICTURED = 12  # labels of the histogram that have a picture
CHANGED = 10  # labels whose share differs most from the run before


def render_page(row: dict[str, Any], findings: Findings, failed: dict[str, str], labels: list[str],
                before: dict[str, Any] | None, notes: list[str]) -> str:
    """The text of the page.

    Args:
        row: the run, as a row of `ledger_rows.RUNS`.
        failed: the reason of each failed shard that the page lists, by shard.
        labels: the label of each label_id.
        before: the last run that labelled something, as a row of `ledger_rows.RUNS`.
        notes: sentences that the page begins with.
    """
    counts, gallery = Counts.from_columns(row), findings.gallery
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.StrictUndefined)
    environment.filters |= {"base64": lambda data: base64.b64encode(data).decode(), "duration": format_duration}
    template = environment.from_string((files("pipeline.report") / "report.html.j2").read_text(encoding="utf-8"))
    frequent = counts.labels.most_common(FREQUENT)
    of_frequent = [gallery.of_label[label_id] for label_id, _ in frequent[:PICTURED] if label_id in gallery.of_label]
    return template.render(
        run=row, counts=counts, before=before, notes=notes, labels=labels, frequent=frequent,
        galleries=[("Most certain", gallery.most), ("Least certain", gallery.least),
                   ("The most certain of each frequent label", of_frequent)],
        plots=_plots(counts, findings, before) if counts.num_images else [],
        examples=findings.examples, slowest=[(shard, spent_seconds(shard)) for shard in findings.slowest],
        failed=sorted(failed.items()), num_failed=row["num_failed"],
        settings=_settings(row), changes=list_changes(before, row) if before else [],
        drift=measure_drift(Counts.from_columns(before), counts)[:CHANGED]
        if before and _has_same_classes(before, row, labels) else [])


def _has_same_classes(before: dict[str, Any], now: dict[str, Any], labels: list[str]) -> bool:
    """Whether a label_id means the same in two runs: their models are the same, or both have the same --classes."""
    then, today = (json.loads(row["config"]).get("classes") for row in (before, now))
    in_list = max(Counts.from_columns(before).labels, default=0) < len(labels)  # the file may have been changed
    return before["model_id"] == now["model_id"] or (then == today and in_list)


def format_duration(seconds: float) -> str:
    """Seconds in the units that a person reads: `59.9 s`, `59 min 59 s`, `2 h 2 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def list_changes(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Settings, versions and hardware that differ between two runs: name, value before, value now."""
    old, new = _settings(before), _settings(now)
    return [(name, old.get(name, "–"), new.get(name, "–")) for name in sorted(old | new)
            if old.get(name) != new.get(name)]


def measure_drift(before: Counts, now: Counts) -> list[tuple[int, float, float]]:
    """label_id, its share of the labelled images before and now; the label whose share changed most comes first."""
    totals = before.labels.total() or 1, now.labels.total() or 1
    shares = [(label_id, before.labels[label_id] / totals[0], now.labels[label_id] / totals[1])
              for label_id in before.labels.keys() | now.labels.keys()]
    return sorted(shares, key=lambda entry: (-abs(entry[2] - entry[1]), entry[0]))


def _settings(row: dict[str, Any]) -> dict[str, str]:
    fixed = {name: str(row.get(name) or "") for name in ("model_id", "device", "precision", "runner", "hardware")}
    config = {f"--{name.replace('_', '-')}": str(value) for name, value in json.loads(row["config"]).items()}
    return fixed | config | {f"{name} version": str(value) for name, value in json.loads(row["versions"]).items()}


def _plots(counts: Counts, findings: Findings, before: dict[str, Any] | None) -> list[tuple[str, str]]:
    return [("Throughput", draw_throughput(*findings.timeline.rates(), "Images a second while the run lasted")),
            ("Confidence", draw_confidence(counts.confidence, before["confidence"] if before else None,
                                           "Share of images by probability of the best label"))]
