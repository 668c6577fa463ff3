"""TensorBoard and wandb, offline: what a run logs arrives in their files."""

import struct
import time

import numpy as np
import pytest
from train_helpers import toy_config

from cfdg_jax.training.logging import make_sink

pytestmark = pytest.mark.usefixtures("generators_are_shallow", "programs_are_shared")

VALUES = {"q": np.array([1.5, 2.5]), "phase_seconds": 3.0, "lost": np.array([np.nan, 4.0]), "name": "text", "no": None}


def test_tensorboard_gets_a_curve_for_each_seed(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    sink = make_sink(toy_config(log__loggers="tensorboard"), tmp_path)
    sink.write("online", 20, VALUES)
    sink.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    data, found = path.read_bytes(), {}
    while data:  # records: length, its checksum, the event, its checksum
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        found |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
        data = data[16 + length :]
    assert found == {
        "online/q/seed0": (20, 1.5), "online/q/seed1": (20, 2.5), "online/phase_seconds": (20, 3.0),
        "online/lost/seed1": (20, 4.0),
    }  # fmt: skip


def test_wandb_writes_to_disk_alone_unless_told_otherwise(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    config = toy_config(log__loggers="wandb")
    sink = make_sink(config, tmp_path)
    assert config.log.wandb_mode == "offline" and sink._run.settings._offline
    sink.write("online", 20, VALUES)
    sink.close()
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    for _ in range(100):  # its own process writes the file
        written = path.read_bytes()
        if b"online/q/seed1" in written:
            break
        time.sleep(0.1)
    assert b"online/q/seed1" in written and b"online/step" in written and b"expectile" in written
    assert b"online/lost/seed0" not in written
