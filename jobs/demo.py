#!/usr/bin/env python3
"""The job on the photographs that scikit-image and scikit-learn ship: pack, label, and ask the tables with DuckDB.

Uses the pretrained weights where they can be reached; where not, says so and takes seed:0, whose labels mean nothing.
"""

import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import duckdb
from cyclopts import run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.errors import JobError
from pipeline.model.weights import identify, load
from pipeline.tables.layout import labels_folder, tables_glob

JOBS = Path(__file__).parent
FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
# Photographs; the rest of the folders are drawings and test patterns.
PHOTOGRAPHS = ("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png",
               "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png",
               "motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "rocket.jpg", "china.jpg", "flower.jpg")


def demo(*, folder: Path = Path("demo"), weights: str | None = None) -> int:
    """Pack the photographs, label them, and print their labels.

    Args:
        folder: Folder for the photographs, the shards and the tables.
        weights: Weights, as label-images run takes them (default: pretrained, or else seed:0).
    """
    photographs, shards, tables = (folder / name for name in ("photographs", "shards", "tables"))
    if not shards.exists():
        photographs.mkdir(parents=True, exist_ok=True)
        for package, subfolder in FOLDERS.items():
            for path in (Path(str(files(package))) / subfolder).iterdir():
                if path.name in PHOTOGRAPHS:
                    shutil.copy(path, photographs)
        subprocess.run([sys.executable, JOBS / "pack.py", "--input", photographs, "--output", shards], check=True)
    weights = weights or find_reachable_weights()
    status = subprocess.run([sys.executable, JOBS / "label.py", "--input", shards, "--output", tables, "--weights",
                             weights], check=False).returncode
    if status:
        return status
    model_id = identify(weights).model_id
    print(duckdb.sql(f"SELECT key, width, height, label, round(prob, 3) AS prob, error "
                     f"FROM {tables_glob(labels_folder(str(tables), model_id))} ORDER BY key"))
    return 0


def find_reachable_weights() -> str:
    """`pretrained` where it can be reached; else `seed:0`, after a loud warning."""
    try:
        load(identify("pretrained"))
    except JobError as error:
        print(f"{'!' * 100}\n{error}\nFALLING BACK to untrained weights (seed:0): THE LABELS BELOW MEAN NOTHING.\n"
              f"Set WEIGHTS=path/to/model.safetensors for real ones.\n{'!' * 100}", file=sys.stderr)
        return "seed:0"
    return "pretrained"


if __name__ == "__main__":
    run(demo)
