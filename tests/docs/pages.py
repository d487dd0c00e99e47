"""The pages of the documentation as data: the fenced blocks of each page, in order.

In: a Markdown file. Out: its blocks. Not here: what runs them (`session.py`), and which are not run (`not_run.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *sorted(str(path.relative_to(ROOT)) for folder in ("docs", "cluster") for path in (ROOT / folder).glob("*.md")),
]
COMMANDS = ("sh", "python", "sql")  # languages of blocks that are run
SHOWN = ("text", "csv", "toml", "json")  # languages of blocks that are only read
_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block. `line`: where its text begins. `output`: the text block right below, which shows the output."""

    page: str
    line: int
    language: str
    text: str
    output: str = ""

    @property
    def first_command(self) -> str:
        """Its first line without the comment."""
        return self.text.splitlines()[0].partition(" #")[0].rstrip()

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def read_page(page: str) -> str:
    """The text of a page, by its path in the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def find_blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = read_page(page)
    blocks = []
    fences = list(_FENCE.finditer(text))
    for fence, following in zip_longest(fences, fences[1:]):
        is_output = (
            following is not None and following[1] == "text" and not text[fence.end() : following.start()].strip()
        )
        line = text.count("\n", 0, fence.start(2)) + 1
        blocks.append(
            Block(page, line, fence[1], fence[2], following[2] if following is not None and is_output else "")
        )
    return blocks


def without_blocks(page: str) -> str:
    """The text of a page without its fenced blocks."""
    return _FENCE.sub("", read_page(page))
