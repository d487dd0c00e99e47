"""The benchmark: every rival in the same run, ratios rather than rates, start-up apart from steady state.

Each of `PARTS` is a module whose `measure` takes a `Setting` and returns a `Part`. `make bench` installs the rivals;
they are no dependency of the library.
"""

from __future__ import annotations

import importlib
from typing import Any

from pipeline.bench.measure import Setting

PARTS = ("decode", "model", "feed", "job", "driver", "plan", "night", "sql", "embeddings", "gpu")


def run(parts: list[str], setting: Setting) -> dict[str, Any]:
    """Run the parts in order: the `ratios` of all parts in one dict, and the `figures` behind them."""
    ratios: dict[str, float] = {}
    figures: dict[str, object] = {}
    for name in parts:
        part = importlib.import_module(f"pipeline.bench.{name}").measure(setting)
        ratios |= part.ratios
        figures |= part.figures
    return {"ratios": {name: round(value, 3) for name, value in ratios.items()}, "figures": figures}
