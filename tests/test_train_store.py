"""Saved folders: what comes back, and that no damaged byte goes unnoticed."""

import errno
import json
import pathlib
import random
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfdg_jax.errors import UserError
from cfdg_jax.training import store
from cfdg_jax.training.checkpoint import Kept
from cfdg_jax.training.record import LogMark, Record

pytestmark = pytest.mark.usefixtures("generators_are_shallow", "programs_are_shared")

ROOT = pathlib.Path(__file__).resolve().parents[1]


def tree():
    return {
        "keys": jax.random.split(jax.random.key(3), 2),
        "half": jnp.arange(3, dtype=jnp.bfloat16),
        "nothing": jnp.zeros((0, 4)),
        "state": (jnp.linspace(0.0, 1.0, 7), (), np.int64(5)),
        "meters/q": np.arange(6.0).reshape(2, 3).T,
    }


def test_everything_comes_back(tmp_path):
    place = tmp_path / "deep [1] \\ gs: ü*?" / "0"
    store.write(place, tree(), {"step": 3})
    stored = store.read(place)
    back = store.fill(jax.eval_shape(lambda: {"keys": tree()["keys"], "half": tree()["half"]}), stored.arrays, place)
    assert stored.about == {"step": 3} and back["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(jax.random.key_data(back["keys"]), jax.random.key_data(tree()["keys"]))
    np.testing.assert_array_equal(stored.arrays["meters/q"], tree()["meters/q"])
    assert stored.arrays["nothing"].shape == (0, 4) and stored.arrays["state/2"] == 5
    assert store.read_about(place) == (stored.about, stored.seal)
    assert [path.name for path in place.parent.iterdir()] == ["0"]


def files_of(place):
    return sorted(path for path in place.rglob("*") if path.is_file())


def test_every_file_is_proven(tmp_path):
    place, luck = tmp_path / "0", random.Random(0)
    store.write(place, tree(), {"step": 3})
    told = 0
    for path in files_of(place):
        data = path.read_bytes()
        for byte in range(0, len(data), max(1, len(data) // 40)):
            flipped = bytearray(data)
            flipped[byte] ^= 1 << luck.randrange(8)
            path.write_bytes(flipped)
            with pytest.raises(store.Damaged):
                store.read(place)
            told += 1
        path.write_bytes(data)
    assert told > 100 and store.read(place).about == {"step": 3}


@pytest.mark.parametrize("name", [store.ARRAYS, store.RECORD])
@pytest.mark.parametrize("damage", ["gone", "empty", "short", "folder", "other", "more"])
def test_whatever_is_wrong_with_a_file_is_damage(tmp_path, name, damage):
    place = tmp_path / "0"
    store.write(place, tree(), {})
    path = next(path for path in files_of(place) if name in path.parts)
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "other":
        store.write(tmp_path / "1", {"a": jnp.ones(3)}, {})
        path.write_bytes(next(each for each in files_of(tmp_path / "1") if name in each.parts).read_bytes())
    elif damage == "more":
        path.write_bytes(data + b"\0")
    elif damage != "gone":
        path.write_bytes(data[: len(data) // 2] if damage == "short" else b"")
    with pytest.raises(store.Damaged) as told:
        store.read(place)
    assert "\n" not in str(told.value) and str(told.value)


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    place = tmp_path / "0"
    store.write(place, {"a": jnp.ones(3)}, {})
    monkeypatch.setattr(store.os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
    with pytest.raises(OSError, match=r"0'$") as error:
        store.write(place, {"a": jnp.zeros(3)}, {})
    assert error.value.errno == errno.EIO
    np.testing.assert_array_equal(store.read(place).arrays["a"], np.ones(3))
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_a_write_that_fails_midway_is_one_line(tmp_path):
    """Five arrays are written at once, and none fits: whatever is told of the others is no traceback."""
    store.write(tmp_path / "0", {"a": jnp.ones(3)}, {})
    code = """
        import pathlib, resource, sys
        import numpy as np
        from cfdg_jax.training import store
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        try:
            noise = {str(i): np.random.default_rng(i).normal(size=200_000) for i in range(5)}
            store.write(pathlib.Path(sys.argv[1]), noise, {})
        except OSError as error:
            print(error)
        """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "0")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"[Errno 27] File too large: '{tmp_path / '0'}'\n" and done.stderr == "", done
    np.testing.assert_array_equal(store.read(tmp_path / "0").arrays["a"], np.ones(3))


def test_what_reads_back_otherwise_was_not_written(tmp_path, monkeypatch):
    write = store._write_arrays

    def bad_disk(path, leaves):
        return write(path, leaves | {"a": leaves["a"] + 1})

    monkeypatch.setattr(store, "_write_arrays", bad_disk)
    with pytest.raises(OSError, match="Input/output error"):
        store.write(tmp_path / "0", {"a": jnp.ones(100)}, {})
    assert not (tmp_path / "0").exists()


def test_shapes_that_do_not_fit_are_one_line(tmp_path):
    store.write(tmp_path / "0", {"a": jnp.ones(3)}, {})
    arrays = store.read(tmp_path / "0").arrays
    for template, message in (({"a": jnp.ones(4)}, r"holds a as float32 \(3,\), not float32 \(4,\)"), ({"b": 1}, "b")):
        with pytest.raises(UserError, match=message):
            store.fill(jax.eval_shape(lambda t=template: jax.tree.map(jnp.asarray, t)), arrays, tmp_path / "0")


def test_another_version_is_named(tmp_path):
    store.write(tmp_path / "0", {"a": jnp.ones(3)}, {})
    record = json.loads((tmp_path / "0" / store.RECORD).read_text()) | {"format": 99, "version": "7.8.9"}
    (tmp_path / "0" / store.RECORD).write_text(json.dumps(record | {"seal": store.seal_of(record)}))
    with pytest.raises(UserError, match=r"written by cfdg-jax 7\.8\.9, which this version .* cannot continue"):
        store.read(tmp_path / "0")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "_CHECKPOINT_METADATA").write_text("{}")
    with pytest.raises(UserError, match="an earlier one"):
        store.read(tmp_path / "old")


def test_a_record_survives_json_and_refuses_other_kinds():
    record = Record("online", 7, {"log": 5}, {"3": ("online", 2)}, (1.0, 2.5), {"a": LogMark(4, "f")}, 1.5)
    plain = json.loads(json.dumps(record.to_json()))
    assert Record.from_json(plain) == record
    for changes in ({"phase": "elsewhere"}, {"step": None}, {"logs": [1]}, {"failed": {"3": 1}}):
        with pytest.raises(store.Damaged):
            Record.from_json(plain | changes)
    with pytest.raises(store.Damaged):
        Record.from_json({name: value for name, value in plain.items() if name != "clock"})


@pytest.mark.parametrize("damage", ["bit", "other work", "other shapes"])
def test_a_bad_kept_part_is_told_and_done_again(tmp_path, damage):
    told = []
    shapes = jax.eval_shape(lambda: jnp.ones(50))
    identity = "theirs" if damage == "other work" else "ours"
    Kept(tmp_path / "kept", identity, told.append).save(jnp.ones(9 if damage == "other shapes" else 50), now=True)
    if damage == "bit":
        path = next(path for path in files_of(tmp_path / "kept") if store.ARRAYS in path.parts)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert Kept(tmp_path / "kept", "ours", told.append).load(shapes) is None
    assert len(told) == 1 and "that work is done again" in told[0]
