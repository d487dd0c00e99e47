"""What the documentation names exists: links, files, modules, functions, flags, variables, targets of make."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, find_blocks, read_page, without_blocks

VERBS = (
    *("run", "verify", "query", "pack", "prune", "relabel", "duplicates", "index"),
    *("evaluate", "finetune", "train", "bench"),
)
WRITTEN = {  # files that the jobs write or read, and no file of the repository
    "lease.json",
    "input.json",
    "evaluation.json",
    "by_class.csv",
    "confusions.csv",
    "calibration.csv",
    "weights.safetensors",
    "classes.csv",
    "steps.csv",
    "epochs.csv",
    "curves.svg",
    "model.safetensors",
    "truth.csv",
    "list.csv",
    "own.csv",
    "night.toml",
}
OTHERS_FLAGS = {  # of ray, kubectl, pip and other tools
    "--address",
    "--working-dir",
    "--runtime-env-json",
    "--submission-id",
    "--head",
    "--without-pip",
    "--depth",
    "--long",
}
PROGRAM = (
    shutil.which("label-images", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    or "label-images"
)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_NAMES = re.compile(r"`(\w+)` in `((?:pipeline|tests|jobs)/[\w/]+\.py)`")
_FUNCTIONS = re.compile(r"`((?:pipeline|tests|jobs)/[\w/]+\.py)` \(((?:`\w+`(?:, )?)+)\)")


def spans(page: str) -> Iterator[str]:
    """What stands in backticks in the text of a page."""
    yield from (match[1] for match in _SPAN.finditer(without_blocks(page)))


@pytest.fixture(scope="session")
def flags() -> dict[str, set[str]]:
    """The flags of each verb, as its help prints them."""
    helps = {
        verb: subprocess.run([PROGRAM, verb, "--help"], capture_output=True, text=True, check=True).stdout
        for verb in VERBS
    }
    return {verb: set(_FLAG.findall(text)) for verb, text in helps.items()}


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links_lead_to_files_and_headings(page):
    broken = []
    for target in (link for link in _LINK.findall(read_page(page)) if "://" not in link):
        name, _, heading = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        titles = (
            re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            if heading and path.exists()
            else []
        )
        anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        broken += [] if path.exists() and (not heading or heading in anchors) else [target]
    assert not broken


@pytest.mark.parametrize("page", PAGES)
def test_files_exist(page):
    tops = {path.name for path in ROOT.iterdir()}
    names = {path.name for folder in tops - {".git", ".venv"} for path in [ROOT / folder, *(ROOT / folder).rglob("*")]}
    missing = []
    for span in spans(page):
        if "NAME" in span:  # stands for a name of the reader's
            continue
        if (
            re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*/?", span)
            and "/" in span
            and span.split("/")[0] in tops - {"demo", ".venv"}
        ):
            exists = bool(list(ROOT.glob(span.rstrip("/"))))
        elif re.fullmatch(r"[\w-]+\.(py|md|toml|ya?ml|sql|json|csv|svg|safetensors|txt)", span):
            exists = span in names | WRITTEN
        elif re.fullmatch(r"(pipeline|tests)(\.\w+)+", span):
            exists = bool(list(ROOT.glob(span.replace(".", "/") + "*")))
        else:
            continue
        missing += [] if exists else [span]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_functions_are_in_their_files(page):
    text = read_page(page)
    named = [(path, name) for path, names in _FUNCTIONS.findall(text) for name in re.findall(r"\w+", names)]
    named += [(path, name) for name, path in _NAMES.findall(text)]
    assert not [
        (path, name)
        for path, name in named
        if not re.search(
            rf"^\s*(def|class) {name}\b|^{name}\b", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE
        )
    ]


@pytest.mark.parametrize("page", PAGES)
def test_flags_and_variables_exist(page, flags):
    of_all = set().union(*flags.values()) | OTHERS_FLAGS
    variables = {"LABEL_" + flag[2:].upper().replace("-", "_") for flag in of_all}
    blocks = [block.text.replace("\\\n", " ") for block in find_blocks(page) if block.language == "sh"]
    unknown = []
    for text in [*spans(page), *(line for block in blocks for line in block.splitlines())]:
        command = re.search(r"(?:label-images (\w+)|jobs/label\.py)\b(.*)", text)
        if command:
            verb = command[1] or "run"
            of_verb = flags.get(verb, set()) | {"--help"}
            unknown += [] if verb in VERBS else [text]
            unknown += [f"{verb} {flag}" for flag in _FLAG.findall(command[2].partition("#")[0]) if flag not in of_verb]
        elif text.startswith("--"):
            unknown += [flag for flag in _FLAG.findall(text) if flag not in of_all]
        unknown += [
            name
            for name in re.findall(r"\bLABEL_[A-Z_]+\b", text)
            if name not in variables and not name.startswith("LABEL_HEAD_SVC")
        ]
    assert not unknown


def test_packages_stand_in_the_order_that_is_checked():
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"][
        0
    ]["layers"]
    order = [name for layer in reversed(layers) for name in layer.split(" : ")]
    rows = re.findall(r"^\| (`pipeline/.*?) \|", read_page("docs/architecture.md"), re.MULTILINE)
    assert [name for row in rows for name in re.findall(r"`pipeline/(\w+)", row)] == order


def test_messages_are_in_the_code():
    """The messages of troubleshooting.md that stand in backticks are ours: each part between `…` is in the code."""
    texts = [
        path.read_text(encoding="utf-8")
        for folder in ("pipeline", "jobs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".sql")
    ]
    code = re.sub(
        r"""["']\s*\n\s*f?["']|\{[^{}\n]*\}""", "", "\n".join(texts)
    )  # text over several lines, and what is put into it
    cells = re.findall(r"^\| ([^|]*) \|", read_page("docs/troubleshooting.md"), re.MULTILINE)
    parts = [part.strip() for cell in cells for span in _SPAN.findall(cell) for part in span.split("…")]
    assert not [part for part in parts if re.sub(r"\{[^{}]*\}", "", part) not in code]


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = [
        *spans(page),
        *(line for block in find_blocks(page) if block.language == "sh" for line in block.text.splitlines()),
    ]
    assert not [
        command for command in commands if (match := re.match(r"make ([a-z-]+)", command)) and match[1] not in targets
    ]
