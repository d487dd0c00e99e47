"""The benchmark: every rival in the same run, ratios rather than rates, start-up apart from steady state.

A file for each part (`decode`, `model`, `feed`, `job`, `driver`, `plan`, `sql`, `gpu`), and the rivals of `gpu` in their own; each
takes a `Setting` and returns a `Part`.
Rivals are installed by `make bench` and are no dependency of the library.
"""

from __future__ import annotations

import importlib
from typing import Any

from pipeline.bench.measure import Setting

PARTS = ("decode", "model", "feed", "job", "driver", "plan", "sql", "gpu")


def run(parts: list[str], setting: Setting) -> dict[str, Any]:
    """Run the parts in order: `ratios`, flat, and the `figures` behind them."""
    ratios: dict[str, float] = {}
    figures: dict[str, object] = {}
    for name in parts:
        part = importlib.import_module(f"pipeline.bench.{name}").measure(setting)
        ratios |= part.ratios
        figures |= part.figures
    return {"ratios": {name: round(value, 3) for name, value in ratios.items()}, "figures": figures}
