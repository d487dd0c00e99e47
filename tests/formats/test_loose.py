"""Loose images: groups that stay as they are where nothing changed, and files read in one version."""

import os
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.formats.loose import FILES_EACH, MAX_FILES_EACH, group_files, read_files
from pipeline.inputs.find import find_shards
from pipeline.store import storage
from pipeline.store.listing import FILES, list_input
from tests.support.jobs import SEED, digest, job, labels_folder

Entry = tuple[str, int, str, float]


def files(entries: list[Entry]) -> pa.Table:
    columns = zip(*entries, strict=True)
    return pa.table(list(columns), schema=FILES.append(pa.field("changed", pa.float64())))


def groups(entries: list[Entry]) -> dict[str, str]:
    """Version by name; every file is in one group."""
    made = group_files(files(entries))
    members = [member["path"] for row in made["members"].to_pylist() for member in row]
    assert sorted(members) == sorted(path for path, *_ in entries)
    assert max(len(row) for row in made["members"].to_pylist()) <= MAX_FILES_EACH
    return dict(zip(made["path"].to_pylist(), made["etag"].to_pylist(), strict=True))


def many(number: int, seed: int = 0) -> list[Entry]:
    rng = random.Random(seed)
    return [(f"{rng.randrange(100):03}/{rng.randbytes(6).hex()}.jpg", rng.randrange(1000), rng.randbytes(4).hex(),
             float(rng.randrange(1000))) for _ in range(number)]


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_groups_do_not_depend_on_the_order_of_the_listing():
    entries = many(20_000)
    made = groups(entries)
    assert 20_000 // FILES_EACH / 2 < len(made) < 2 * 20_000 // FILES_EACH
    assert groups(random.Random(1).sample(entries, len(entries))) == made


@pytest.mark.parametrize("number", [900, 20_000])
def test_new_files_redo_the_last_group_only(number):
    entries = many(number)
    new = [(f"{n}/new-{n}.jpg", 1, "e", 2000.0 + n) for n in range(5)]
    before, after = groups(entries), groups(entries + new)
    assert len(changed(before, after) & before.keys()) <= 1


def test_a_changed_or_removed_file_redoes_no_more_than_two_groups():
    entries = many(20_000)
    before = groups(entries)
    for at in random.Random(2).sample(range(len(entries)), 10):
        touched = [*entries[:at], (*entries[at][:2], "other", 3000.0), *entries[at + 1 :]]
        assert len(changed(before, groups(touched)) & before.keys()) <= 3
        assert len(changed(before, groups(entries[:at] + entries[at + 1 :])) & before.keys()) <= 2


def test_the_first_files_are_not_what_names_the_others():
    entries = sorted(many(20_000), key=lambda entry: (entry[3], entry[0]))
    assert len(changed(groups(entries), groups(entries[1:])) & groups(entries).keys()) <= 1


@pytest.mark.parametrize("store", ["local", pytest.param("s3", marks=pytest.mark.s3)])
def test_files_are_read_as_they_were_listed(tmp_path, store, request, monkeypatch):
    root = str(tmp_path)
    if store == "s3":
        for name, value in request.getfixturevalue("s3")[0].items():
            monkeypatch.setenv(name, value)
        root = "s3://photos/loose"
    contents = {f"class {n % 3}/ü{n}#%41.jpg": bytes([n]) * (n * 50) for n in range(100)}
    for path, data in contents.items():
        storage.put_whole(storage.join(root, path), data)
    assert list_input(root)["changed"].to_pylist()[0] > 1.7e9
    row, = find_shards(root).shards.to_pylist()
    samples = list(read_files(root, row["members"], 4000))
    assert [sample.index for sample in samples] == list(range(100))
    assert {sample.key: sample.encoded for sample in samples if not sample.error} == {
        path: data for path, data in contents.items() if len(data) <= 4000}
    assert sum(sample.error == "too_large" for sample in samples) == 19

    def errors() -> dict[str, str]:
        return {sample.key: sample.error for sample in read_files(root, row["members"], 4000)
                if sample.error not in (None, "too_large")}

    storage.put_whole(storage.join(root, "class 0/ü3#%41.jpg"), b"other")
    assert errors() == {"class 0/ü3#%41.jpg": "replaced"}
    storage.remove(storage.join(root, "class 0/ü3#%41.jpg"))
    assert errors() == {"class 0/ü3#%41.jpg": "not_a_file"}
    storage.remove(root)


@pytest.mark.slow
def test_the_job_labels_loose_images_as_it_does_a_tar(undisturbed, few_photographs, tmp_path):
    for name, data in few_photographs:
        storage.put_whole(str(tmp_path / "in/some class" / name), data)
    options = ("--input", tmp_path / "in", "--output", tmp_path / "out")
    done = job("label", *options, *SEED, "--batch-size", 4)
    assert done.returncode == 0 and "1 labelled" in done.stdout, done.stdout + done.stderr
    digest(tmp_path / "in", tmp_path / "out")
    assert "nothing to do" in job("label", *options, *SEED).stdout
    ours = pq.read_table(tmp_path / "out/labels", partitioning=None).to_pylist()
    theirs = pq.read_table(labels_folder(undisturbed) / "a.tar.parquet", partitioning=None).to_pylist()
    assert {row["sha256"]: row["label_id"] for row in ours} == {row["sha256"]: row["label_id"] for row in theirs}
    assert sorted(row["key"] for row in ours) == sorted(f"some class/{name}" for name, _ in few_photographs)
    shutil.copy(tmp_path / "in/some class/flower.jpg", tmp_path / "in/new.jpg")
    os.utime(tmp_path / "in/new.jpg")
    assert "would label 1 shards" in job("label", *options, *SEED, "--dry-run").stdout
