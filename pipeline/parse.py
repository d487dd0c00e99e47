"""Flags whose values are small languages: `--price`, `--keep`.

In: text. Out: values. Not here: the other flags (`config`), and what the values are for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

KEPT_TYPES = ("text", "int", "float", "bool", "time")


def parse_price(price: str | None) -> dict[str, float]:
    """'gpu=0.98,cpu=0.04' -> the price of an hour of each; what is not named costs nothing. None: empty.

    Raises:
        ValueError: it is written in another way. The message begins behind the name of the flag.
    """
    prices: dict[str, float] = {}
    for part in price.split(",") if price is not None else ():
        name, _, number = part.strip().partition("=")
        if name not in ("gpu", "cpu") or name in prices or not re.fullmatch(r"\d+(\.\d+)?", number):
            raise ValueError(f"is {price!r}; it is the price of an hour, such as gpu=0.98,cpu=0.04.")
        prices[name] = float(number)
    return prices


def find_cost(prices: Mapping[str, float], cpu_s: float, gpu_s: float) -> float | None:
    """What so many seconds of CPUs and GPUs cost at prices of an hour; None without prices."""
    return (prices.get("cpu", 0) * cpu_s + prices.get("gpu", 0) * gpu_s) / 3600 if prices else None


@dataclass(frozen=True)
class KeptColumn:
    """A column of the tables that comes from the input.

    `name`: in the tables. `source`: in the input. `type`: one of `KEPT_TYPES`; None: the first shards will say.
    """

    name: str
    source: str
    type: str | None

    def __str__(self) -> str:
        name = "" if self.name == self.source else f"{self.name}="
        return name + self.source + (f":{self.type}" if self.type else "")


def parse_keep(keep: str | None) -> tuple[KeptColumn, ...]:
    """'caption,year:int,text=txt' -> the columns, in order. None: none.

    Raises:
        ValueError: it is written in another way, or names a column twice. The message begins behind the name of the
            flag.
    """
    columns: list[KeptColumn] = []
    for part in keep.split(",") if keep is not None else ():
        match = re.fullmatch(r"\s*(?:([^=:\s]+)\s*=\s*)?([^=:]*[^=:\s])\s*(?::\s*(\w+)\s*)?", part)
        if match is None or match[3] not in (None, *KEPT_TYPES):
            raise ValueError(f"is {keep!r}; it is [COLUMN=]SOURCE[:TYPE], several joined by commas, such as "
                             f"caption,year:int,text=txt; a TYPE is one of {', '.join(KEPT_TYPES)}.")
        name = match[1] or match[2]
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", name):
            raise ValueError(f"has {name!r}, which SQL cannot use as it is; give it another name, such as "
                             f"kept={match[2]}.")
        if name.lower() in (column.name.lower() for column in columns):
            raise ValueError(f"has the column {name} twice.")
        columns.append(KeptColumn(name, match[2], match[3]))
    return tuple(columns)


def format_keep(columns: tuple[KeptColumn, ...]) -> str | None:
    """The text that `parse_keep` reads; None for no columns."""
    return ",".join(map(str, columns)) or None
