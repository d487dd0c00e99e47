"""How the benchmark measures: rivals take turns, A B C A B C, so that a machine that slows down slows all of them.

In: functions that do work and return how many units they did. Out: rates, ratios round by round, printed tables.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

JOB = Path(__file__).parents[2] / "jobs" / "label.py"  # as parts `job` and `plan` run it


@dataclass(frozen=True)
class Setting:
    """What all parts share. `photos`: encoded photographs of ImageNet's sizes, at least 90."""

    photos: list[bytes]
    folder: str  # scratch space, on the local disk
    repeats: int  # rounds


@dataclass
class Part:
    """The result of a part: `ratios` by their names in the JSON line, and `figures` for the record."""

    ratios: dict[str, float] = field(default_factory=dict)
    figures: dict[str, object] = field(default_factory=dict)


def race(rivals: Mapping[str, Callable[[], int]], repeats: int) -> dict[str, list[float]]:
    """Units a second of each rival, one figure for each round. One more round comes first and does not count."""
    rates: dict[str, list[float]] = {name: [] for name in rivals}
    for round_ in range(repeats + 1):
        for name, work in rivals.items():
            begun = time.perf_counter()
            num = work()
            if round_:
                rates[name].append(num / (time.perf_counter() - begun))
    return rates


@contextmanager
def one_core() -> Iterator[None]:
    """Let this process use one of its cores while the context lasts."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of the rounds."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def show(title: str, rates: Mapping[str, list[float]], against: str, unit: str = "images/s") -> None:
    """Print a table: the median, minimum and maximum of each rival, and the ratio to the rival `against`."""
    print(f"\n{title} ({len(rates[against])} rounds)")
    print(f"  {'':44} {unit:>12}  {'min':>9} {'max':>9}  ratio")
    for name, values in rates.items():
        print(f"  {name:44} {median(values):12,.1f}  {min(values):9,.1f} {max(values):9,.1f}  "
              f"{ratio(values, rates[against]):5.2f}")


def slope(seconds: Mapping[int, list[float]]) -> tuple[float, float]:
    """Steady state and start-up, from the seconds of runs of two sizes: units a second, and seconds at size 0."""
    small, large = sorted(seconds)
    rate = (large - small) / (median(seconds[large]) - median(seconds[small]))
    return rate, median(seconds[small]) - small / rate
