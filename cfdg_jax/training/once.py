"""A generator fitted once, for no seed's own rows: before a run's online phase, and for ``cfdg-jax sample``.

    state  <- init(key)
    repeat    state <- fit(state)          kept every minute, and when interrupted

A pre-training is found again by what decides it: the compiled program's text, the rows, the key, and the machine's
kind and devices. So runs share it whose methods differ only in what it does not ask, such as the guidance weight.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cfdg_jax.core import ring
from cfdg_jax.core.machine import cores
from cfdg_jax.core.seeds import purpose_key
from cfdg_jax.data.files import cache_dir
from cfdg_jax.methods import Augmenter
from cfdg_jax.training.checkpoint import Kept
from cfdg_jax.training.devices import as_one_lane, sharing
from cfdg_jax.training.generate import Fit, fit_on, told_alone
from cfdg_jax.training.origin import digest_of
from cfdg_jax.training.program import Program
from cfdg_jax.training.progress import Interrupted, Interrupts, Progress
from cfdg_jax.types import Array, Buffer, Key, Metrics


class Once(NamedTuple):
    """A generator and what it is fitted to.

    Attributes:
      augmenter: Fitted for its ``fit_steps``.
      offline: `[N, D]` rows.
      online: A ring, or the offline rows as one.
      key: `[]`.
      told: What the fit is told of the real rows, see `told_alone`.
      per_call: Steps of one dispatch.
      bar: The name of its bar.
      mesh: The devices that share each batch; None for one.
    """

    augmenter: Augmenter
    offline: Array
    online: Buffer
    key: Key
    told: Mapping[str, Any]
    per_call: int
    bar: str = "fit"
    mesh: Mesh | None = None


def once_of(augmenter: Augmenter, offline: Array, online: Buffer, key: Key, per_call: int, bar: str = "fit") -> Once:
    """A `Once` with the scores of its rows, where its fit is told any."""
    return Once(augmenter, offline, online, key, told_alone(augmenter, offline, online, key), per_call, bar)


class Fitted(NamedTuple):
    """A generator under way, or whole.

    Attributes:
      done: `[]` int32, steps made.
      generator: Its state.
      ends: `[C]` int32, steps made at the end of each dispatch.
      metrics: `[C]` of each dispatch; NaN of those to come.
    """

    done: Array
    generator: Any
    ends: Array
    metrics: Metrics

    def curve(self) -> Iterator[tuple[int, dict[str, float]]]:
        """The steps at which dispatches ended, and their metrics."""
        for i, end in enumerate(self.ends):
            yield int(end), {name: float(values[i]) for name, values in self.metrics.items()}


def begin(once: Once) -> Fitted:
    """Nothing done."""
    generator = jax.jit(once.augmenter.init)(purpose_key(once.key, "init"), once.offline, once.online)
    steps = once.augmenter.fit_steps
    ends = np.minimum(np.arange(once.per_call, steps + once.per_call, once.per_call), steps)
    rows, first = (once.offline, once.online), int(ends[0])
    _, metrics = fit_of(once).eval_shape(generator, *rows, once.key, steps=first, **once.told)
    unknown = {name: jnp.full(len(ends), jnp.nan) for name in metrics}
    return Fitted(jnp.zeros((), jnp.int32), generator, jnp.asarray(ends), unknown)


def fit_of(once: Once) -> Any:
    """The fit, jitted. JAX traces it once, however often this is asked."""
    return jax.jit(once.augmenter.fit, static_argnames="steps", donate_argnums=0)


def fitted(once: Once, kept: Kept, progress: Progress, interrupts: Interrupts) -> Fitted:
    """The generator, fitted: read back, continued, or made. What `kept` holds stays.

    Raises:
      Interrupted: if SIGINT or SIGTERM arrived; what is done so far is kept.
      FloatingPointError: if the fit leaves the finite numbers.
    """
    fit = fit_of(once)

    def step(generator: Any, start: int, steps: int) -> tuple[Any, Metrics]:
        key = purpose_key(once.key, "fit", start)
        with sharing(once.mesh):
            return fit(generator, once.offline, once.online, key, steps=steps, **once.told)

    found = kept.load(jax.eval_shape(lambda: begin(once)))
    state = begun = found or begin(once)
    work = Fit(step, once.augmenter.fit_steps, once.per_call, once.bar)
    before, whole = int(begun.done), f"found whole in {kept.place}"
    if found:
        stands = f"continues at step {before:,} of {work.steps:,}"
        progress.say(f"{once.bar}: {whole if before == work.steps else stands}")
    if before == work.steps:
        return begun
    try:
        for done, generator, metrics in fit_on(work, begun.generator, before, progress):
            values = {name: float(value) for name, value in metrics.items()}
            if not np.isfinite(list(values.values())).all():
                raise FloatingPointError(f"after {done:,} fit steps {values} is not finite; lower --augment.lr")
            place = int(np.searchsorted(state.ends, done))
            known = {name: state.metrics[name].at[place].set(value) for name, value in values.items()}
            state = Fitted(jnp.int32(done), generator, state.ends, known)
            kept.save(state)
            interrupts.check()
    except Interrupted:
        kept.save(state, now=True)
        raise
    kept.save(state, now=True)
    return state


def pretrained(program: Program, progress: Progress, interrupts: Interrupts) -> Fitted:
    """The generator that the first refresh of all seeds goes on from, kept in the data folder.

    Raises:
      Interrupted: see `fitted`.
      FloatingPointError: see `fitted`.
    """
    once = before_online(program)
    name = identity(once)
    place = cache_dir() / "generators" / name
    return fitted(once, Kept(place, name, progress.warn), progress, interrupts)


def before_online(program: Program) -> Once:
    """The pre-training of a run's generator."""
    augmenter, rows = program.augmenter.pretraining, program.offline_rows
    assert augmenter is not None, "asked of a generator that is pre-trained"
    key = purpose_key(jax.random.key(program.config.run_key), "generator")
    once = once_of(augmenter, rows, ring.full(rows), key, program.config.refresh.fit_steps_per_call, "generator")
    return once._replace(mesh=as_one_lane(program.config, program.mesh))


def identity(once: Once) -> str:
    """Twenty hex digits of all that decides the numbers of a fit."""
    start = jax.eval_shape(lambda: begin(once)).generator
    init = jax.jit(once.augmenter.init).lower(once.key, once.offline, once.online)
    program = fit_of(once).lower(start, once.offline, once.online, once.key, steps=once.per_call, **once.told)
    where = (jax.__version__, jax.local_devices()[0].device_kind, cores(), *([once.mesh.size] if once.mesh else []))
    work = (once.augmenter.fit_steps, once.per_call, np.asarray(jax.random.key_data(once.key)).tolist())
    arrays = [digest_of(np.asarray(each)) for each in (once.offline, *jax.tree.leaves(once.told))]
    said = (init.as_text(), program.as_text(), *where, *work, *arrays)
    return hashlib.sha256(repr(said).encode()).hexdigest()[:20]
