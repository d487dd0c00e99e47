"""What a run says of the machine on which it starts a Ray of its own."""

from pipeline.actors.connect import find_free_bytes, note_small_memory


def test_a_small_shared_memory_is_told():
    assert note_small_memory(2e9, 3 * 2**30) == ""
    said = note_small_memory(6.5e9, 64 * 2**20)
    assert said.startswith("/dev/shm has 67 MB, and Ray wants 6.5 GB: it keeps objects in ")


def test_the_free_bytes_of_a_folder(tmp_path):
    assert find_free_bytes(str(tmp_path)) > 2**20 and find_free_bytes(str(tmp_path / "absent")) == 0
