"""``origin.json``: what a run was made from, written once when it begins.

The transforms are kept here, so that a policy needs no dataset, and so are the digest of the offline rows and of the
pre-training that the run started from, so that a resumed run is the same run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from cfdg_jax.core.machine import cores
from cfdg_jax.data.transforms import ObservationTransform, RewardTransform, Transforms
from cfdg_jax.errors import UserError, require
from cfdg_jax.training.logging import device_name, versions, write_atomic
from cfdg_jax.training.program import Program
from cfdg_jax.training.store import seal_of
from cfdg_jax.types import Spec

FILE = "origin.json"


@dataclasses.dataclass(frozen=True)
class Source:
    """The pre-training of another run.

    Attributes:
      folder: Its run folder, absolute.
      config_hash: Of its config.
      agent: Seal of its agent (`cfdg_jax.training.store`).
    """

    folder: str
    config_hash: str
    agent: str


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a run was made from.

    Attributes:
      spec: The task.
      transforms: As fitted when the run began.
      rows: Offline rows.
      digest: SHA-256 of the packed offline rows.
      offline_from: The pre-training it started from; None for its own, or for none.
      device: That it began on.
      cores: Of the machine it began on; equal numbers need as many.
      version: Of this package.
    """

    spec: Spec
    transforms: Transforms
    rows: int
    digest: str
    offline_from: Source | None
    device: str
    cores: int
    version: str

    def to_json(self) -> dict[str, Any]:
        """Plain values; floats in full."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        reward = lambda transform: [float(transform.scale), float(transform.bias)]
        return plain | {
            "spec": dataclasses.asdict(self.spec),
            "transforms": {
                "reward": reward(self.transforms.reward),
                "online_reward": reward(self.transforms.online_reward),
                "mean": np.asarray(self.transforms.observation.mean, float).tolist(),
                "scale": np.asarray(self.transforms.observation.scale, float).tolist(),
            },
            "offline_from": self.offline_from and dataclasses.asdict(self.offline_from),
        }

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Origin:
        """The inverse of `to_json`; any error if it is not."""
        numbers = plain["transforms"]
        reward = lambda pair: RewardTransform(*map(np.float32, pair))
        moments = ObservationTransform(np.array(numbers["mean"], np.float32), np.array(numbers["scale"], np.float32))
        spec, source = plain["spec"], plain["offline_from"]
        reference = spec["reference"] and tuple(spec["reference"])
        return cls(**{
            **plain,
            "spec": Spec(**{**spec, "reference": reference}),
            "transforms": Transforms(reward(numbers["reward"]), moments, reward(numbers["online_reward"])),
            "offline_from": source and Source(**source),
        })  # fmt: skip


def digest_of(rows: np.ndarray) -> str:
    """SHA-256 of packed rows `[N, D]`."""
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()


def origin_of(program: Program, offline_from: Source | None) -> Origin:
    """That of a run which begins now."""
    rows = np.asarray(program.offline_rows)
    return Origin(
        program.spec, program.transforms, len(rows), digest_of(rows), offline_from, device_name(), cores(),
        versions()["cfdg-jax"],
    )  # fmt: skip


def write_origin(folder: pathlib.Path, origin: Origin) -> None:
    """Writes ``origin.json``, sealed."""
    plain = json.loads(json.dumps(origin.to_json()))
    write_atomic(folder / FILE, json.dumps(plain | {"seal": seal_of(plain)}, indent=1) + "\n")


def read_origin(folder: pathlib.Path) -> Origin:
    """What `write_origin` wrote.

    Raises:
      UserError: if it is missing or damaged.
    """
    path = folder / FILE
    require(path.is_file(), str(path), "is missing", "restore it, or start a new run")
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        seal = plain.pop("seal")
        assert seal == seal_of(plain)
        return Origin.from_json(plain)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise UserError(str(path), "is not what the run wrote", "restore it, or start a new run") from None


def require_same_data(origin: Origin, program: Program, folder: pathlib.Path) -> None:
    """Refuses to continue a run on other offline rows than it began with.

    Raises:
      UserError: with both digests.
    """
    here = digest_of(np.asarray(program.offline_rows))
    found = f"{program.config.dataset} has changed since {folder} began: its rows have digest {here[:16]}"
    require(here == origin.digest, "dataset", f"{found}, then {origin.digest[:16]}", "restore the data, or start anew")
