"""Places that may not be read or written: one line that names the path, before any work."""

import errno
import os
import pathlib
import shutil

import numpy as np
import pytest
from raw_rows import raw

from cfdg_jax.data import commands, files, local
from cfdg_jax.data.convert import convert
from cfdg_jax.data.hdf5 import write_hdf5
from cfdg_jax.data.load import load_dataset
from cfdg_jax.errors import UserError

NAME = "local:toy-dense-medium-v0"


def failing(kind):
    def fail(*args, **kwargs):
        raise OSError(kind, os.strerror(kind))

    return fail


@pytest.mark.parametrize("kind", [errno.EACCES, errno.EROFS, errno.EPERM, errno.EIO, errno.ENAMETOOLONG, errno.EISDIR])
@pytest.mark.parametrize("step", ["mkdir", "open", "stat"])
def test_a_data_folder_that_refuses(tmp_path, monkeypatch, kind, step):
    place = {"mkdir": (pathlib.Path, "mkdir"), "open": (files, "open"), "stat": (pathlib.Path, "exists")}[step]
    monkeypatch.setattr(*place, failing(kind), raising=False)
    monkeypatch.setattr(local, "_roll_out", None)  # never reached
    with pytest.raises(UserError) as caught:
        load_dataset(NAME, data_dir=tmp_path / "data", progress=False)
    text = str(caught.value)
    assert text.startswith(str(tmp_path)) and os.strerror(kind) in text and "CFDG_DATA_DIR" in text


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_stays_an_error_of_its_own_kind(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(os, "fsync", failing(kind))
    with pytest.raises(OSError) as caught:
        write_hdf5(tmp_path / "x.hdf5", raw())
    assert (caught.value.errno, caught.value.filename) == (kind, str(tmp_path / "x.hdf5"))
    assert list(tmp_path.iterdir()) == []


def test_room_is_looked_for_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000))
    monkeypatch.setattr(local, "_roll_out", None)  # never reached
    with pytest.raises(OSError) as caught:
        load_dataset(NAME, data_dir=tmp_path, progress=False)
    assert caught.value.errno == errno.ENOSPC and NAME.partition(":")[2] in caught.value.filename


def test_a_failed_rename_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", failing(errno.EACCES))
    with pytest.raises(UserError, match="cannot be written"):
        write_hdf5(tmp_path / "x.hdf5", raw())
    assert list(tmp_path.iterdir()) == []


def test_what_stands_in_the_way(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/local: cannot be created"):
        load_dataset(NAME, data_dir=tmp_path / "file", progress=False)
    long = tmp_path / ("x" * 300)
    monkeypatch.setenv("CFDG_DATA_DIR", str(long))
    for ask in (commands.list_text, lambda: load_dataset(NAME)):
        with pytest.raises(UserError, match=r"File name too long"):
            ask()
    write_hdf5(tmp_path / "good.hdf5", raw(60, range(9, 60, 10)))
    with pytest.raises(UserError, match=r"File name too long"):
        convert(str(tmp_path / "good.hdf5"), f"{long}.hdf5")
    with pytest.raises(UserError, match=r"cannot be (created|looked for)"):
        convert(str(tmp_path / "good.hdf5"), str(tmp_path / "file" / "copy.hdf5"))


def test_no_home_folder(monkeypatch):
    monkeypatch.setenv("CFDG_DATA_DIR", "~nobody-of-that-name/data")
    with pytest.raises(UserError, match="CFDG_DATA_DIR: ~nobody-of-that-name/data has no home folder"):
        load_dataset(NAME)


def test_a_read_only_folder_is_good_for_what_is_there(tmp_path, monkeypatch):
    first = load_dataset(NAME, data_dir=tmp_path, progress=False)
    monkeypatch.setattr(files, "locked", None)
    monkeypatch.setattr(pathlib.Path, "mkdir", failing(errno.EROFS))
    np.testing.assert_array_equal(load_dataset(NAME, data_dir=tmp_path).rewards, first.rewards)
