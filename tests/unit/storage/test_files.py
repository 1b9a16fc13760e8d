"""Files that cannot be written: the error names the file that was to be, in the system's words."""

import errno
import importlib
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from facereel.storage.files import atomic_write, file_lock

NUMBERS = np.random.default_rng(0).random(10_000)
WRITERS = {
    "python": lambda path: path.write_bytes(NUMBERS.tobytes()),
    "safetensors": lambda path: save_file({"numbers": torch.from_numpy(NUMBERS)}, path),
    "pyarrow": lambda path: pq.write_table(pa.table({"numbers": NUMBERS}), path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_error_names_the_target_file(writer, tmp_path, small_files):
    path = tmp_path / "numbers"
    path.write_text("as before")
    small_files(1000)
    with pytest.raises(OSError, match="too large") as caught, atomic_write(path) as beside:
        WRITERS[writer](beside)
    error = caught.value
    assert (error.errno, error.strerror, error.filename) == (errno.EFBIG, "File too large", str(path))
    assert [file.name for file in tmp_path.iterdir()] == ["numbers"]
    assert path.read_text() == "as before"


def test_a_missing_folder_error_names_the_target_file(tmp_path):
    path = tmp_path / "absent" / "numbers"
    with pytest.raises(FileNotFoundError) as caught, atomic_write(path) as beside:
        beside.write_text("x")
    assert caught.value.filename == str(path)


@pytest.mark.parametrize("folder", [".", "/"])
def test_a_path_without_a_name_is_refused(folder):
    with pytest.raises(IsADirectoryError) as caught, atomic_write(Path(folder)):
        pass
    assert caught.value.filename == folder


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "copy") as beside:
        beside.write_bytes((tmp_path / "absent").read_bytes())
    assert caught.value.filename == str(tmp_path / "absent")


@pytest.mark.parametrize("step", ["fcntl.flock", "os.path.samestat"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_lock_file_is_removed_if_a_signal_interrupts_a_step(step, number, tmp_path, monkeypatch):
    """The steps: to lock the file, and twice to remove it."""
    pytest.importorskip("fcntl")
    module, name = step.rsplit(".", 1)
    module, calls = importlib.import_module(module), []
    real = getattr(module, name)

    def interrupted(*arguments):
        result = real(*arguments)
        calls.append(arguments)
        if len(calls) == number + 1:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(module, name, interrupted)
    with suppress(KeyboardInterrupt), file_lock(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()
    assert len(calls) > number or (step, number) == ("os.path.samestat", 2)  # it was removed the first time
    assert not (tmp_path / "lock").exists()


def test_lock_is_of_the_file_that_is_there(tmp_path):
    """A process that waited for a removed file would hold a lock that later processes do not see."""
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "lock"
    first = path.open("w")
    fcntl.flock(first, fcntl.LOCK_EX)

    def finish():
        path.unlink()
        first.close()

    with file_lock(path, waiting=finish) as held:
        assert os.path.samestat(os.fstat(held[0]), path.stat())
        with file_lock(path) as other:
            assert other is None
    assert not path.exists()
