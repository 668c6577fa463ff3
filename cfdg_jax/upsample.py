"""``cfdg-jax sample``: fits a generator to named data and writes any number of rows for any reader of D4RL's files.

    fit        the augmenter of the config, one seed, in raw units
    generate   chunk by chunk, straight to disk: memory holds a chunk, whatever the number of rows

Every generated transition becomes two rows of the file: ``(obs, action, reward, terminal)``, and a row that holds the
next observation and a timeout. D4RL's own loader pairs a row with the one after it and drops rows that time out, so it
and everything built on it reads exactly the generated transitions; so does `cfdg_jax.load_dataset`. The range of the
offline trajectories' returns goes along, by which rewards are scaled.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cfdg_jax.augment.quality import quality_report
from cfdg_jax.augment.registry import AUGMENTERS, make_augmenter
from cfdg_jax.config import TrainConfig, choice, entry_of
from cfdg_jax.core import ring
from cfdg_jax.core.seeds import purpose_key, seed_keys
from cfdg_jax.data.dataset import Dataset
from cfdg_jax.data.hdf5 import File, create_hdf5, open_hdf5
from cfdg_jax.data.load import load_dataset
from cfdg_jax.data.pack import pack
from cfdg_jax.data.transforms import identity_transforms
from cfdg_jax.envs.onestep import one_step, termination
from cfdg_jax.errors import UserError, require
from cfdg_jax.fields import config_hash
from cfdg_jax.methods import Augmenter
from cfdg_jax.presets import make_config
from cfdg_jax.training.checkpoint import Kept
from cfdg_jax.training.devices import as_one_lane, mesh_of, sharing
from cfdg_jax.training.generate import Chunk, Make, chunks, make_on, rows_per_source
from cfdg_jax.training.logging import write_atomic
from cfdg_jax.training.once import fitted, once_of
from cfdg_jax.training.progress import Interrupts, Progress
from cfdg_jax.types import Array, Buffer, Metrics, Source, Spec

COLUMNS = ("observations", "actions", "rewards", "terminals", "timeouts")


@dataclasses.dataclass(frozen=True)
class Job:
    """One call of the command: what is fitted to what, and where the rows go.

    Attributes:
      data: The datasets in words.
      mesh: The devices that share the fit's batches and the rows; None for one.
      identity: Hash of the settings and of the rows of both datasets: calls that differ never continue one another.
    """

    config: TrainConfig
    data: str
    augmenter: Augmenter
    spec: Spec
    task: str
    dynamics: str
    return_range: tuple[float, float]
    offline: np.ndarray
    online: np.ndarray | None
    rows: int
    out: pathlib.Path
    mesh: Mesh | None
    identity: str

    @property
    def key(self) -> Array:
        return purpose_key(seed_keys(self.config.run_key, 1, self.config.first_seed)[0], "sample")

    @property
    def partial(self) -> pathlib.Path:
        """Where rows are until all are there."""
        return self.out.with_name(self.out.name + ".partial")

    @property
    def generator(self) -> pathlib.Path:
        """Where the fitted generator is kept until then."""
        return self.out.with_name(self.out.name + ".generator").resolve()


def default_generator() -> str:
    """The first augmenter that can be fitted to one dataset alone."""
    return next(name for name, entry in AUGMENTERS.items() if entry.one_dataset is not None)


def job_config(dataset: str, generator: str, online: str | None, preset: str, fields: Mapping[str, Any]) -> TrainConfig:
    """The config of a call: of a generator without a second dataset, fitted to the one there is where it can be."""
    entry = AUGMENTERS.get(generator)
    alone = entry.one_dataset if entry is not None and online is None else None
    return make_config(dataset, augment=generator, preset=preset, **{**(alone or {}), **fields})


def prepare(
    config: TrainConfig, online: str | None, rows: int, out: pathlib.Path, progress: Progress, checked: bool = False
) -> Job:
    """Loads the data and makes the generator; `checked` announces a later `check`.

    Raises:
      UserError: for no generator, one that needs a second dataset or would not look at it, datasets that do not fit,
        too few rows, a name in use, or devices that are not there.
    """
    require(rows >= 1, "rows", f"is {rows}", "must be at least 1")
    require(out.suffix in (".hdf5", ".h5"), str(out), "is no HDF5 file name", "end it in .hdf5")
    require(not out.exists(), str(out), "exists", "choose another name or move it away")
    _require_generator(config, online)
    mesh = as_one_lane(config, mesh_of(dataclasses.replace(config, seeds=1)))
    if mesh is not None:
        progress.say(f"devices: {mesh.size} share the fit and the rows")
    data = [load_dataset(each, progress=progress.shown) for each in (config.dataset, online) if each is not None]
    config.augment.check_without_agent(any(each.loose for each in data))
    offline_data = data[0]
    for other in data[1:]:
        same = (other.obs_dim, other.act_dim) == (offline_data.obs_dim, offline_data.act_dim)
        found = f"{other.name} has other dimensions than {offline_data.name}"
        require(same, "online", found, "use the same task")
    terminals = any(bool(each.terminals.any()) for each in data)
    spec = Spec(offline_data.obs_dim, offline_data.act_dim, horizon=1_000, terminates=terminals)
    augmenter = make_augmenter(config.augment.in_one_fit, spec)
    least = 2 * len(augmenter.shares) if checked else len(augmenter.shares)
    require(rows >= least, "rows", f"is {rows}", f"must be at least {least} here{', or leave out --check' * checked}")
    used = data[-1:] if config.augment.fitted_to == "online" else data
    packed = [_pack(each) for each in data]
    for table in packed[1:]:
        table[:, spec.layout.source] = Source.ONLINE
    return Job(
        config=config,
        data=" and ".join(each.name for each in used),
        augmenter=augmenter,
        spec=spec,
        task=config.env.task or offline_data.task,
        dynamics=offline_data.dynamics,
        return_range=used[0].return_range,
        offline=packed[0],
        online=packed[1] if online is not None else None,
        rows=rows,
        out=out,
        mesh=mesh,
        identity=_identity(config, packed),
    )


def _require_generator(config: TrainConfig, online: str | None) -> None:
    """Refuses a config without a generator, and one that is fitted to other datasets than those given."""
    name, fitted_to = choice(config, "augment"), config.augment.fitted_to
    require(not config.vmap, "vmap", "is an axis of training, and one generator makes the rows", "leave it out")
    known = f"name a generator, such as --augment {default_generator()}"
    require(fitted_to is not None, "augment", f"is {name}", known)
    config.augment.check_without_agent()
    if online is not None:
        found = f"is {online}, but {name} is fitted to offline rows alone"
        require(fitted_to != "offline", "online", found, "leave --online out")
        return
    alone = entry_of(config.augment, "augment").one_dataset or {}
    fields = "".join(f", or use --{field} {value}" for field, value in alone.items())
    found = f"is missing: {name} is fitted to offline and online rows"
    require(fitted_to == "offline", "online", found, f"name the second with --online{fields}")


def _pack(data: Dataset) -> np.ndarray:
    return pack(data, identity_transforms(data.obs_dim))


def _identity(config: TrainConfig, packed: Sequence[np.ndarray]) -> str:
    """Sixteen hex digits of the settings and all rows."""
    digest = hashlib.sha256(config_hash(config).encode())
    for rows in packed:
        digest.update(np.ascontiguousarray(rows).data)
    return digest.hexdigest()[:16]


def sample(job: Job, progress: Progress) -> pathlib.Path:
    """Fits and writes; a call that was interrupted continues where it stopped.

    Returns:
      The file.

    Raises:
      Interrupted: if SIGINT or SIGTERM arrived; what is done so far is kept beside `out`.
      OSError: before anything is written, if the disk cannot hold the rows.
      FloatingPointError: if the fit or the sampler leaves the finite numbers; nothing is kept then.
    """
    try:
        return _sample(job, progress)
    except FloatingPointError:
        job.partial.unlink(missing_ok=True)
        shutil.rmtree(job.generator, ignore_errors=True)
        raise


def _sample(job: Job, progress: Progress) -> pathlib.Path:
    with Interrupts().watching() as interrupts:
        _require_room(job)
        offline = jnp.asarray(job.offline)
        per_call = job.config.refresh.fit_steps_per_call
        once = once_of(job.augmenter, offline, _online(job, offline), job.key, per_call)._replace(mesh=job.mesh)
        kept = Kept(job.generator / job.identity, job.identity, progress.warn)
        generator, make = fitted(once, kept, progress, interrupts).generator, _make(job)
        with create_hdf5(job.partial, "a") as file:
            made = _open_partial(file, job)
            done = sum(1 for chunk in chunks(make) if chunk.first + chunk.rows <= made)
            for chunk, rows, _ in make_on(make, generator, done, progress):
                _append(file, job, chunk, np.asarray(rows))
                interrupts.check()
    os.replace(job.partial, job.out)
    shutil.rmtree(job.generator)
    return job.out


def _online(job: Job, offline: Array) -> Buffer:
    """The ring that the generator sees; the offline rows where there is no second dataset and it looks at none."""
    return ring.full(offline if job.online is None else jnp.asarray(job.online))


def _make(job: Job) -> Make:
    """What is made, one seed."""
    generate = jax.jit(job.augmenter.generate, static_argnums=(2, 3))

    def chunk_of(generator: Any, source: int, start: int, rows: int) -> tuple[Array, Metrics]:
        with sharing(job.mesh):
            return generate(generator, purpose_key(job.key, f"generate{source}", start), source, rows)

    return Make(chunk_of, rows_per_source(job.rows, job.augmenter.shares, "rows"), job.config.refresh.chunk)


def _require_finite(values: Any, what: str, remedy: str) -> None:
    if not np.isfinite(values).all():
        raise FloatingPointError(f"{what} finite; {remedy}")


def _open_partial(file: File, job: Job) -> int:
    """Makes the datasets, or checks that those of an earlier call fit; returns the generated rows in them."""
    asked = f"{job.identity}-{job.rows}"
    if "hash" not in file.attrs:
        widths = {"observations": (job.spec.obs_dim,), "actions": (job.spec.act_dim,)}
        for name in COLUMNS:
            kind = bool if name in ("terminals", "timeouts") else np.float32
            file.create_dataset(name, (2 * job.rows, *widths.get(name, ())), kind)
        file.create_dataset("infos/source", (2 * job.rows,), np.int8)
        low, high = job.return_range
        described: dict[str, Any] = {"task": job.task, "dynamics": job.dynamics, "return_low": low, "return_high": high}
        described |= {"name": f"generated from {job.data}", "generator": choice(job.config, "augment")}
        for name, value in described.items():
            file.create_dataset(f"metadata/{name}", data=value)
        file.attrs["hash"], file.attrs["done"] = asked, 0
    same = file.attrs["hash"] == asked
    require(same, str(job.partial), "holds rows of other settings", "delete it, or choose another --out")
    return int(file.attrs["done"])


def _append(file: File, job: Job, chunk: Chunk, rows: np.ndarray) -> None:
    """Writes generated `rows` `[n, D]` as the file's transitions from the chunk's first on."""
    start, end = chunk.first, chunk.first + chunk.rows
    what = f"generated rows {start:,} to {end:,} are not"
    _require_finite(rows[:, : job.spec.layout.mc_return], what, "lower --augment.w or --augment.lr")
    batch, pairs = jax.device_get(job.spec.layout.unpack(jnp.asarray(rows))), slice(2 * start, 2 * end)
    zero = np.zeros(len(rows), np.float32)
    interleave = lambda first, second: np.stack([first, second], axis=1).reshape(2 * len(rows), *np.shape(first)[1:])
    file["observations"][pairs] = interleave(batch.obs, batch.next_obs)
    file["actions"][pairs] = interleave(batch.action, np.zeros_like(batch.action))
    file["rewards"][pairs] = interleave(batch.reward, zero)
    file["terminals"][pairs] = interleave(batch.terminal > 0, zero > 0)
    file["timeouts"][pairs] = interleave(zero > 0, zero == 0)
    file["infos/source"][pairs] = np.repeat(np.asarray(batch.source, np.int8), 2)
    file.attrs["done"] = end
    file.flush()


def _require_room(job: Job) -> None:
    """Raises `OSError` if the disk cannot hold the rows; HDF5 would crash when it met that half way."""
    try:
        job.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError("out", f"cannot lie in {job.out.parent} ({error.strerror})", "name a folder") from None
    width = 2 * (4 * (job.spec.obs_dim + job.spec.act_dim + 1) + 3)
    held = job.partial.stat().st_size if job.partial.exists() else 0
    if shutil.disk_usage(job.out.parent).free < job.rows * width - held + 1_000_000:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(job.out))


def check(job: Job) -> dict[str, float]:
    """Measures the finished file (`cfdg_jax.augment.quality`), row kind by row kind, and writes it beside the file.

    Returns:
      ``{"<source>/<measure>": value}``, such as ``synthetic_online/dynamics_error``.
    """
    rows = _pack(load_dataset(str(job.out)))
    with open_hdf5(job.out) as file:
        source = file["infos/source"][::2]
        rows[:, job.spec.layout.next_obs] = file["observations"][1::2]  # of a row that ended readers make nothing
    simulate, ended = one_step(job.task, job.dynamics), termination(job.task)
    report: dict[str, float] = {}
    for kind in job.augmenter.shares:
        measured = quality_report(rows[source == kind], job.spec.layout, job.offline, job.online, simulate, ended)
        report |= {f"{Source(kind).name.lower()}/{name}": value for name, value in measured.items()}
    place = job.out.with_name(job.out.name + ".quality.json")
    write_atomic(place, json.dumps({"data": job.data, "rows": job.rows, **report}, indent=1) + "\n")
    return report
