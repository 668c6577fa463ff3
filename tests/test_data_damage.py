"""Damaged, odd and busy files: one line that names the file and what failed, never a traceback."""

import errno
import os

import h5py
import numpy as np
import pytest
from raw_rows import raw

from cfdg_jax.data import files, hdf5
from cfdg_jax.data.hdf5 import read_hdf5, read_metadata, write_hdf5
from cfdg_jax.data.load import load_dataset, task_of_name
from cfdg_jax.errors import UserError

fcntl = pytest.importorskip("fcntl")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "data.hdf5"
    write_hdf5(path, raw(60, timeouts=range(9, 60, 10)), {"task": "hopper"})
    return path


def refused(path, match):
    with pytest.raises(UserError, match=match) as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    return caught.value


def header_of(path, name):
    with h5py.File(path) as file:
        return h5py.h5o.get_info(file[name].id).addr


@pytest.mark.parametrize("byte", range(24))
def test_every_byte_of_an_object_header(path, byte):
    """Some are unused; the others make h5py raise KeyError, RuntimeError, OSError, ValueError, ..."""
    at, image = header_of(path, "rewards") + byte, bytearray(path.read_bytes())
    image[at] ^= 0xFF
    path.write_bytes(image)
    try:
        load_dataset(path)
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)


def test_one_flipped_byte_names_the_array(path):
    at, image = header_of(path, "rewards"), bytearray(path.read_bytes())
    image[at] ^= 0xFF
    path.write_bytes(image)
    refused(path, "rewards: cannot be read, the file is damaged: .*; copy or download it again")


@pytest.mark.parametrize("byte", [8, 9, 20])
def test_a_damaged_superblock_is_no_foreign_format(path, byte):
    image = bytearray(path.read_bytes())
    image[byte] ^= 0xFF
    path.write_bytes(image)
    refused(path, "is damaged: ")


@pytest.mark.parametrize("kind", [KeyError, RuntimeError, OSError, ValueError, TypeError, UnicodeError, RecursionError])
def test_whatever_reading_raises_is_one_line(path, monkeypatch, kind):
    def fail(*args):
        raise kind("two\nlines")

    monkeypatch.setattr(h5py.Dataset, "__getitem__", fail)
    for read in (read_hdf5, read_metadata):
        with pytest.raises(UserError, match="metadata: cannot be read, the file is damaged: two; copy") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_memory_that_is_not_there_is_said(path, monkeypatch):
    monkeypatch.setattr(hdf5, "metadata_of", lambda path, file: {})
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda *args: bytes(1 << 62))
    refused(path, "actions: does not fit into memory")


LINKS = {
    "left behind": (h5py.ExternalLink("left_behind.hdf5", "/x"), "is a link to left_behind.hdf5, which cannot be read"),
    "nowhere": (h5py.SoftLink("/nowhere"), "is a link to /nowhere, which cannot be read; copy that along"),
    "itself": (h5py.SoftLink("/rewards"), "cannot be read, the file is damaged: .*too many links"),
    "circle": (h5py.ExternalLink("data.hdf5", "/rewards"), "is a link to data.hdf5, which cannot be read"),
}


@pytest.mark.parametrize("link", LINKS)
def test_links_that_lead_nowhere(path, link):
    target, message = LINKS[link]
    with h5py.File(path, "r+") as file:
        del file["rewards"]
        file["rewards"] = target
    refused(path, f"rewards: {message}")


def test_links_that_nobody_reads_do_no_harm(path):
    with h5py.File(path, "r+") as file:
        file["infos"], file["else"] = h5py.SoftLink("/nowhere"), h5py.SoftLink("/else")
    assert len(load_dataset(path)) == 60


def test_rows_of_a_virtual_dataset_that_is_not_there(path):
    layout = h5py.VirtualLayout((60,), np.float32)
    layout[:] = h5py.VirtualSource("part.hdf5", "rewards", (60,))
    with h5py.File(path, "r+", libver="latest") as file:
        del file["rewards"]
        file.create_virtual_dataset("rewards", layout)
    refused(path, "rewards: lies in part.hdf5, which is missing")
    with h5py.File(path.with_name("part.hdf5"), "w") as file:
        file["rewards"] = np.arange(60, dtype=np.float32)
    assert load_dataset(path).rewards[59] == 59


@pytest.mark.parametrize("rows", [10**8, 10**11])
def test_claims_are_refused_before_anything_is_allocated(tmp_path, rows):
    path = tmp_path / "claims.hdf5"
    with h5py.File(path, "w") as file:
        for key, shape in {"observations": (rows, 11), "actions": (rows, 3), "rewards": (rows,)}.items():
            file.create_dataset(key, shape, chunks=(50, *shape[1:]), dtype="f4")
        file.create_dataset("terminals", (rows,), chunks=(50,), dtype=bool)
    refused(path, "claims the shape .* GB, but stores 0 bytes; the file is damaged")


def test_what_does_not_fit_this_machine_is_said(path, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 10)
    refused(path, "actions: claims the shape .*; this machine has 0.0 GB; use fewer rows")


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_numbers_keep_no_imaginary_part(path, dtype):
    with h5py.File(path, "r+") as file:
        values = file["observations"][()]
        del file["observations"]
        file["observations"] = values.astype(dtype) + 1j
    refused(path, f"observations: holds {np.dtype(dtype)} values; must hold real numbers")


def test_a_file_in_use_is_no_foreign_format(path):
    with open(path, "rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        refused(path, "is locked: another process has it open for writing.*or set HDF5_USE_FILE_LOCKING=FALSE")
    assert len(load_dataset(path)) == 60


@pytest.mark.parametrize(
    ("number", "text", "message"),
    [
        (errno.ENOLCK, "unable to lock file, errno = 37", "offers no locks .*; set HDF5_USE_FILE_LOCKING=FALSE"),
        (None, "file is already open for write (may use <h5clear file>)", "is still being written, or its writer"),
    ],
)
def test_other_reasons_why_a_file_stays_closed(path, monkeypatch, number, text, message):
    def closed(*args):
        raise OSError(number, text) if number else OSError(text)

    monkeypatch.setattr(h5py, "File", closed)
    refused(path, message)


def test_a_file_that_changes_while_it_is_read(path, monkeypatch):
    read = hdf5._array

    def read_and_write(path, file, name):
        os.utime(path, ns=(1, 1))
        return read(path, file, name)

    monkeypatch.setattr(hdf5, "_array", read_and_write)
    refused(path, "changed while it was read; wait until its writer is done")


def test_paths_that_lead_nowhere(tmp_path):
    link, loop = tmp_path / "link.hdf5", tmp_path / "loop.hdf5"
    link.symlink_to(tmp_path / "gone.hdf5")
    loop.symlink_to(loop)
    refused(link, "is a link to a file that does not exist")
    refused(loop, "cannot be opened")
    refused(tmp_path, "is not a file")
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "data.hdf5", "cannot be opened|does not exist")
    long = tmp_path / f"{'x' * 300}.hdf5"
    for ask in (load_dataset, lambda name: task_of_name(str(name))):
        with pytest.raises(UserError, match=r"\(File name too long\)"):
            ask(long)


def test_an_unreadable_checksum(path):
    sidecar = path.with_name(path.name + ".sha256")
    sidecar.mkdir()
    with pytest.raises(UserError, match=f"{sidecar}: cannot be read .*; delete it to accept data.hdf5"):
        load_dataset(path)
    sidecar.rmdir()
    for content in (b"", b"\xff\xfe\x00"):
        sidecar.write_bytes(content)
        refused(path, "has changed since it was fetched or built")
    sidecar.unlink()
    files.record_sha256(path)
    assert len(load_dataset(path)) == 60


def test_odd_names_inside(path):
    with h5py.File(path, "r+") as file:
        file[b"\xff\xfe"] = 1
        del file["rewards"]
        file.attrs[b"\xfd"] = 2
    refused(path, "rewards: is missing; found")
