"""The flags of each job as they were when each job had a parser of its own: name -> (choices, default).

The default None: the flag had none, or its default depended on something else. A command line of that time works today.
"""

from __future__ import annotations

FORMATS = ("auto", "tar", "parquet", "images", "manifest")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
Flags = dict[str, tuple[tuple[str, ...] | None, object]]

READING: Flags = {
    "--format": (FORMATS, None),
    "--image-member": (None, None),
    "--image-column": (None, None),
    "--key-column": (None, None),
    "--max-image-bytes": (None, None),
}
FLAGS: dict[str, Flags] = {
    "run": {
        "--config": (None, None),
        "--input": (None, None),
        "--output": (None, None),
        "--weights": (None, "pretrained"),
        "--classes": (None, None),
        "--format": (FORMATS, "auto"),
        "--partition": (None, None),
        "--image-column": (None, None),
        "--image-member": (None, None),
        "--key-column": (None, None),
        "--device": (("auto", "cuda", "cpu"), "auto"),
        "--runner": (("auto", "fast", "plain"), "auto"),
        "--precision": (PRECISIONS, "auto"),
        "--max-rejected": (None, 0.01),
        "--batch-size": (None, None),
        "--decoders": (None, None),
        "--decode-threads": (None, None),
        "--labellers": (None, None),
        "--max-image-pixels": (None, 100_000_000),
        "--max-image-bytes": (None, 64 * 2**20),
        "--max-shard-images": (None, 200_000),
        "--reduced-decode": (None, True),
        "--no-reduced-decode": (None, True),
        "--output-embeddings": (("float32", "float16", "false"), "float32"),
        "--lease": (None, True),
        "--no-lease": (None, True),
        "--run-name": (None, None),
        "--keep-reports": (None, 90),
        "--dry-run": (None, False),
        "--no-dry-run": (None, False),
    },
    "verify": {"--input": (None, None), "--output": (None, None), "--model": (None, None), **READING},
    "query": {"--output": (None, None), "--model": (None, None), "--set": (None, None), "--sql": (None, None)},
    "pack": {
        "--input": (None, None),
        "--output": (None, None),
        "--members": (None, None),
        "--images-per-shard": (None, 1000),
        "--prefix": (None, "images"),
    },
    "evaluate": {
        "--output": (None, None),
        "--truth": (None, None),
        "--input": (None, None),
        "--model": (None, None),
        "--save": (None, None),
        **READING,
    },
    "finetune": {
        "--output": (None, None),
        "--save": (None, None),
        "--weights": (None, "pretrained"),
        "--truth": (None, None),
        "--input": (None, None),
        "--holdout": (None, 0.2),
        **READING,
    },
    "train": {
        "--input": (None, None),
        "--truth": (None, None),
        "--validation": (None, None),
        "--validation-truth": (None, None),
        "--holdout": (None, 0.05),
        "--classes": (None, None),
        "--weights": (None, None),
        **READING,
        "--save": (None, None),
        "--workers": (None, None),
        "--precision": (PRECISIONS, "auto"),
        "--no-lease": (None, True),
        "--epochs": (None, 100),
        "--batch-size": (None, 32),
        "--image-size": (None, 299),
        "--learning-rate": (None, 0.045),
        "--decay-rate": (None, 0.94),
        "--decay-epochs": (None, 2.0),
        "--warmup-epochs": (None, 0),
        "--weight-decay": (None, 4e-05),
        "--label-smoothing": (None, 0.1),
        "--dropout": (None, 0.2),
        "--clip-norm": (None, 2.0),
        "--ema-decay": (None, 0.9999),
        "--seed": (None, 0),
        "--no-augment": (None, True),
    },
    "bench": {"--photos": (None, None), "--repeats": (None, 5)},
}
REQUIRED = {
    "run": ["--input", "--output"],
    "verify": ["--input", "--output"],
    "query": ["--output"],
    "pack": ["--input", "--output"],
    "evaluate": ["--output"],
    "finetune": ["--output", "--save"],
    "train": ["--input", "--save"],
    "bench": [],
}
QUERIES = ("drift", "duplicates", "labels", "low_confidence", "neighbours", "rejects", "throughput", "top5")
