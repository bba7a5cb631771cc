"""Files of tensors: complete or not there, checked, and folders of them that leave when the disk is full."""

import os
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from worker.kept import files, folder
from worker.kept.files import TensorFile, TensorFileWriter, stamp_of
from worker.kept.folder import FileFolder
from worker.kept.tensors import BrokenMemory

NUM_PIECES = 5
TENSORS = {
    "codes": torch.arange(NUM_PIECES * 70_000, dtype=torch.int32).to(torch.uint8).view(NUM_PIECES, 700, 100),
    "scales": torch.rand(NUM_PIECES, 7, generator=torch.Generator().manual_seed(0)).bfloat16(),
}
Usage = namedtuple("Usage", "total used free")


def piece(number: int) -> dict[str, torch.Tensor]:
    return {name: tensor[number : number + 1] for name, tensor in TENSORS.items()}


def written(path: Path) -> TensorFile:
    writer = TensorFileWriter(path, TENSORS, {"form": "any"})
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda number: writer.put(number, piece(number)), reversed(range(NUM_PIECES))))
    writer.close()
    return TensorFile(path)


def test_pieces_of_several_threads_are_one_tensor_each(tmp_path: Path) -> None:
    file = written(tmp_path / "layer")
    assert file.about == {"form": "any"} and file.num_pieces == NUM_PIECES
    for name, tensor in file.numbers().items():
        assert torch.equal(tensor, TENSORS[name])
    size = sum(tensor.nbytes for tensor in TENSORS.values()) // NUM_PIECES
    assert [file.check(number) for number in range(NUM_PIECES)] == [size] * NUM_PIECES
    assert file.is_checked
    os.utime(file.path)  # as by somebody who wrote to it
    assert not file.is_checked
    file.stamp()
    assert file.is_checked
    assert [path.name for path in tmp_path.iterdir()] == ["layer"]


def test_files_are_mapped_to_be_read_only(tmp_path: Path) -> None:
    """Else each counts in full as memory that the system has promised, where it promises no more than it has."""
    file = written(tmp_path / "layer")
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(file.path) in line]
    assert [line[1] for line in lines] == ["r--p"]


def test_a_mark_is_a_time_that_every_file_system_can_hold() -> None:
    marks = {stamp_of(torch.tensor([number])) for number in range(64)}
    assert len(marks) == 64 and max(marks) < 2**31 * 10**9


def test_a_file_without_its_last_piece_is_not_there(tmp_path: Path) -> None:
    writer = TensorFileWriter(tmp_path / "layer", TENSORS, {})
    for number in range(NUM_PIECES - 1):
        writer.put(number, piece(number))
    assert not (tmp_path / "layer").exists()
    writer.close()
    assert not list(tmp_path.iterdir())


def test_a_damaged_or_cut_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "layer"
    file = written(path)
    at = file[files.CHECKSUMS].data_ptr() - file["codes"].data_ptr() + file._first - 1000  # in the last piece
    with path.open("r+b") as raw:
        raw.seek(at)
        number = raw.read(1)[0]
        raw.seek(at)
        raw.write(bytes([number ^ 1]))
    damaged = TensorFile(path)
    for number in range(NUM_PIECES - 1):
        damaged.check(number)
    with pytest.raises(BrokenMemory, match=r"layer is damaged: piece 4 of codes is not what was written"):
        damaged.check(NUM_PIECES - 1)
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(BrokenMemory, match="shorter than it should be"):
        TensorFile(path)
    path.write_bytes(b"something else")
    with pytest.raises(BrokenMemory):
        TensorFile(path)


def test_a_folder_gives_whole_files_only_and_removes_broken_ones(tmp_path: Path) -> None:
    store = FileFolder(tmp_path, "model")
    written(store.path_of("layer"))
    found = store.file("layer")
    assert found is not None and torch.equal(found["codes"], TENSORS["codes"])
    store.path_of("layer").write_bytes(b"x")
    assert store.file("layer") is None and not store.path_of("layer").exists()


@pytest.mark.parametrize("is_used", [False, True])
def test_unused_folders_leave_for_new_files_and_used_ones_stay(
    is_used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, older, new = (FileFolder(tmp_path, name) for name in ("old", "older", "new"))
    for place, when in ((old, 2000), (older, 1000)):
        written(place.path_of("layer"))
        os.utime(place.path / folder.LOCK, (when, when))
        place.close()
    size = old.path_of("layer").stat().st_size

    def disk(_: Path) -> Usage:  # with room for one file more than there are now, less a byte
        taken = sum(path.stat().st_size for path in tmp_path.glob("*/*.omni"))
        return Usage(0, 0, 3 * size - 1 - taken)

    monkeypatch.setattr(folder.shutil, "disk_usage", disk)
    user = FileFolder(tmp_path, "older")
    if is_used:
        user.use()
        os.utime(user.path / folder.LOCK, (1000, 1000))
    new.make_room(size)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == ({"older", "new"} if is_used else {"old", "new"})
    user.close()
    with pytest.raises(OSError, match=r"0\.0 GiB more of the disk at .*: free .* GiB there, or set OMNI_DATA_DIR"):
        new.make_room(10 * size)
    assert {path.name for path in tmp_path.iterdir()} == left, "nothing leaves where that is not enough"


def test_a_part_that_cannot_be_read_is_a_fault_and_no_end_of_the_process(tmp_path: Path) -> None:
    file = written(tmp_path / "layer")
    os.truncate(file.path, 4096)  # as an unreadable sector: whoever touches the page gets SIGBUS
    with pytest.raises(BrokenMemory, match="layer cannot be read: its disk is damaged, or it was cut"):
        file._populate(0, len(file._pages))


def test_only_one_fills_a_folder_and_the_others_wait(tmp_path: Path) -> None:
    first, second = FileFolder(tmp_path, "model"), FileFolder(tmp_path, "model")
    waits, filled, begun, may_end = threading.Event(), [], threading.Event(), threading.Event()

    def fill_first() -> None:
        with first.filling(lambda: None):
            begun.set()
            assert may_end.wait(10)
            filled.append("first")
        first.close()

    def fill_second() -> None:
        with second.filling(waits.set):
            filled.append("second")

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(fill_first)
        assert begun.wait(10)
        other = pool.submit(fill_second)
        assert waits.wait(10) and filled == []
        may_end.set()
        one.result(10)
        other.result(10)
    assert filled == ["first", "second"]


FILL = """
import sys, torch
from pathlib import Path
from worker.kept.files import TensorFileWriter
from worker.kept.folder import FileFolder
store = FileFolder(Path(sys.argv[1]), "model")
with store.filling(lambda: None):
    whole = TensorFileWriter(store.path_of("first"), {"a": torch.ones(1, 4)}, {})
    whole.put(0, {"a": torch.ones(1, 4)})
    part = TensorFileWriter(store.path_of("second"), {"a": torch.ones(2, 4)}, {})
    part.put(0, {"a": torch.ones(1, 4)})
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_had_not_finished_is_gone_and_the_rest_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILL, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    store = FileFolder(tmp_path, "model")
    assert store.file("first") is not None and store.file("second") is None
    assert len(list(store.path.glob(f"*{files.UNFINISHED}"))) == 1
    with store.filling(lambda: None):
        assert not list(store.path.glob(f"*{files.UNFINISHED}"))
        assert store.file("first") is not None
