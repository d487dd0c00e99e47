"""Random truths of every kind, spelling and container: the figures equal those of a few lines of pandas."""

import hashlib
import json
import random
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import Config
from pipeline.inputs.read import Inputs
from pipeline.model.classes import SCHEMA
from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.tables import ledger
from pipeline.tables.labels import SAMPLES, Answers, make_rows
from pipeline.truth import sources
from pipeline.truth.evaluate import evaluate
from pipeline.truth.sources import Examples
from tests.support.tars import make_tar

MODEL = "inception_v4-00000000"
INPUTS = Inputs(None, None, Config.max_image_bytes, None)
NAMES = ["cat", "dog", "po\u0308re", "10", "2", "Newt", "red apple"]  # one with its dots apart, two that are numbers
REASONS = [None] * 8 + ["truncated", "corrupt"]


def composed(name: str) -> str:
    return name.replace("o\u0308", "\u00f6")


def frame(rng: random.Random, names: list[str], folders: bool) -> pd.DataFrame:
    """Images of two shards: what they show (an index of `names`, or -1), what the model says, why some are rejected."""
    images = []
    for number in range(rng.randrange(30, 70)):
        shows = rng.choice([-1, *range(len(names))]) if not folders else rng.randrange(len(names))
        key = f"{names[shows]}/{number}" if folders else f"{rng.choice(['x', 'y'])}/{number}"
        images.append({"shard": rng.choice(["a", "b"]), "key": key, "shows": shows,
                       "said": rng.choice([max(shows, 0), rng.randrange(len(names))]),
                       "error": rng.choice(REASONS)})
    return pd.DataFrame(images).sort_values(["shard"], kind="stable").reset_index(drop=True)


def write_tables(folder, images: pd.DataFrame, names: list[str], suffix: str) -> str:
    classes = pa.table([range(len(names)), [None] * len(names), [composed(name) for name in names]], schema=SCHEMA)
    (folder / f"labels/model={MODEL}").mkdir(parents=True)
    (folder / "classes").mkdir()
    pq.write_table(classes, folder / f"classes/{MODEL}.parquet")
    for shard, part in images.groupby("shard"):
        count, k = len(part), min(5, len(names))
        samples = pa.table([[shard + suffix] * count, range(count), part["key"], [9] * count, [9] * count,
                            [hashlib.sha256(key.encode()).hexdigest() for key in part["key"]],
                            [None if pd.isna(one) else one for one in part["error"]]], schema=SAMPLES)
        label_id = np.array([[said, *(one for one in range(len(names)) if one != said)][:k] for said in part["said"]],
                            np.int16)
        prob = np.tile(np.array([0.6, *[0.4 / max(1, k - 1)] * (k - 1)], np.float32), (count, 1))
        made = make_rows(samples, Answers(label_id, prob, np.zeros((count, EMBEDDING_SIZE), np.float32)),
                         classes["label"].combine_chunks())
        pq.write_table(made, folder / f"labels/model={MODEL}/{shard}{suffix}.parquet")
    ledger.write(str(folder), "shards", "r", [], ledger.SHARDS)
    ledger.write(str(folder), "runs", "r", [], ledger.RUNS)
    return str(folder)


def spelled(rng: random.Random, name: str) -> str:
    """A name as somebody may have written it."""
    return rng.choice(["", " ", "\ufeff",
                       "\t"]) + rng.choice([name, composed(name)]) + rng.choice(["", " ", "\r\n", "\u200b"])


def tars(rng, folder, images, names):
    """Text members, beside their images or apart from them."""
    for shard, part in images.groupby("shard"):
        members, apart = [], []
        for row in part.itertuples():
            members.append((f"{row.key}.jpg", b"image"))
            if row.shows >= 0:
                rng.choice([members, apart]).append((f"{row.key}.cls", spelled(rng, names[row.shows]).encode()))
            elif rng.random() < 0.5:
                members.append((f"{row.key}.cls", rng.choice([b"", b"-1", b"nan\n"])))
        rng.shuffle(apart)
        (folder / f"{shard}.tar").write_bytes(make_tar(*members, *apart))
    return "member:cls", None


def columns(rng, folder, images, names):
    """A column of text, of bytes, of numbers of a ClassLabel as integers, or as floats with NaN."""
    kind = rng.choice(["text", "bytes", "int", "float", "dictionary"])
    for shard, part in images.groupby("shard"):
        unknown = {"int": -1, "float": float("nan")}.get(kind)
        values = [(row.shows if kind in ("int", "float") else spelled(rng, names[row.shows])) if row.shows >= 0
                  else unknown for row in part.itertuples()]
        column = pa.array([one and one.encode()
                           for one in values]) if kind == "bytes" else pa.array(values, pa.float64() if kind == "float"
                                                                                else None)
        table = pa.table({"key": part["key"], "image": [b"i"] * len(part), "label": column.dictionary_encode()
                          if kind == "dictionary" else column})
        noted = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        if kind in ("int", "float"):
            table = table.replace_schema_metadata({"huggingface": json.dumps(noted)})
        pq.write_table(table, folder / f"{shard}.parquet")
    return "column:label", None


def csvs(rng, folder, images, names):
    """A CSV with the columns that people use, in any order, with empty cells and truths of images that do not exist."""
    naming, kind = (
        rng.choice(["shard,key", "file_name", "path", "ImageId", "uri"]),
        rng.choice(["label_id", "label", "class"]),
    )
    lines = []
    for row in images.itertuples():
        name = {"shard,key": f"{row.shard}.tar,{row.key}", "file_name": f"{row.key.rpartition('/')[2]}.JPEG",
                "path": f"photos/{row.key}.jpg",
                "ImageId": row.key.rpartition("/")[2], "uri": f"s3://bucket/{row.key}.png"}[naming]
        value = (
            ""
            if row.shows < 0
            else rng.choice([str(row.shows), f"{row.shows}.0"])
            if kind == "label_id"
            else f'"{spelled(rng, names[row.shows])}"'
        )
        lines.append(f"{name},{value}")
    known = [line for line in lines if not line.endswith(",")]
    extra = "a.tar,q/none" if naming == "shard,key" else "q/none.jpg"
    lines = [*lines, f"{extra},{known[0].rpartition(',')[2]}"] if known else lines
    rng.shuffle(lines)
    text = "\n".join([f"{naming},{kind}", *lines]) + "\n"
    (folder / "truth.csv").write_text(rng.choice(["", "\ufeff"]) + (text.replace(",", ";") if rng.random() < 0.2
                                                                    else text), encoding="utf-8")
    return str(folder / "truth.csv"), 1


def by_folders(rng, folder, images, names):
    return "folder", None


@pytest.mark.parametrize("container", [tars, columns, csvs, by_folders])
@pytest.mark.parametrize("seed", range(12))
def test_figures_are_those_of_pandas(container, seed, tmp_path):
    rng = random.Random(seed)
    names = rng.sample(NAMES, rng.randrange(2, len(NAMES)))
    images = frame(rng, names, container is by_folders)
    suffix = ".parquet" if container is columns else ".tar"
    output = write_tables(tmp_path / "out", images, names, suffix)
    (tmp_path / "in").mkdir()
    where, unmatched = container(rng, tmp_path / "in", images, names)
    judged = evaluate(output, None, partial(sources.read_truth, Examples(str(tmp_path / "in"), where, INPUTS)))
    covered, known, sound = judged.coverage, images[images["shows"] >= 0], images["error"].isna()
    right = (known["shows"] == known["said"]) & known["error"].isna()
    assert judged.num_images == len(known) and judged.top1 == pytest.approx(right.mean())
    assert covered.num_with == (sound & (images["shows"] >= 0)).sum()
    assert covered.num_without == (sound & (images["shows"] < 0)).sum()
    assert covered.rejected == images["error"].value_counts().to_dict()
    assert covered.num_with + covered.num_without + sum(covered.rejected.values()) == covered.num_images == len(images)
    assert (covered.num_unmatched, covered.num_ambiguous, judged.num_foreign) == (unmatched or 0, 0, 0)
    expected = known.assign(right=right).groupby("shows")["right"].agg(["size", "mean"])
    by_class = judged.by_class.to_pandas().set_index("label_id")
    assert by_class[by_class["images"] > 0]["images"].to_dict() == expected["size"].to_dict()
    assert by_class[by_class["images"] > 0]["top1"].to_dict() == pytest.approx(expected["mean"].to_dict())
