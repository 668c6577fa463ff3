"""The types every part of the package speaks in, and the letters every docstring uses for shapes.

Shape legend, used in all docstrings of the package:

====== ============================== ====== ==================================
``S``  seeds                          ``O``  observation dimension
``B``  batch rows                     ``A``  action dimension
``K``  updates per call               ``Q``  critics
``C``  buffer capacity                ``E``  evaluation episodes
``N``  rows of the offline dataset    ``D``  width of a packed row
====== ============================== ====== ==================================

With ``--vmap``, ``S`` counts lanes: every seed at every value (`cfdg_jax.axis`).

A *method* is a NamedTuple of pure functions made by a factory from a frozen config (`cfdg_jax.methods`). It is written
for one seed and holds no arrays; `cfdg_jax.core.seeds` adds the seed axis once. A *state* holds arrays only. Methods
meet in three fields of a `Batch` and nowhere else: ``source`` (written by buffers), ``conserve`` (written by the
stratifier, read by the agent) and ``weight`` (written by a mixing rule that draws unevenly).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Key = jax.Array
"""A typed PRNG key (`jax.random.key`)."""
Params = Any
"""A pytree of arrays."""
Metrics = dict[str, Array]
"""Named float32 scalars (one seed) or ``[S]`` vectors (all seeds).

``x@group`` is a value of some of a batch's rows times their share of it, which is the metric ``@group``; the log
divides the means of the two, so that batches weigh as many rows as they have. So too of some updates: ``x@moves``.
"""


class Source(enum.IntEnum):
    """Where a row comes from."""

    OFFLINE = 0
    ONLINE = 1
    SYNTHETIC_OFFLINE = 2
    SYNTHETIC_ONLINE = 3


class Batch(NamedTuple):
    """A view of packed rows as named fields; leading axes are arbitrary (``[B]``, ``[K, B]``, ...).

    Attributes:
      obs: `[..., O]` observation, transformed.
      action: `[..., A]` action in [-1, 1].
      reward: `[...]` reward, transformed.
      next_obs: `[..., O]` observation that truly followed, never across an episode boundary.
      terminal: `[...]` 1.0 for a true terminal (no bootstrap), 0.0 otherwise; a time limit is 0.0.
      mc_return: `[...]` discounted return-to-go of the trajectory, ``-inf`` where unknown.
      source: `[...]` int32, a `Source`.
      conserve: `[...]` in [0, 1], the weight of the agent's offline regulariser on this row.
      weight: `[...]` importance weight of the row's TD error (and in SAC's family of its share in the policy's loss),
        where rows were not drawn evenly; None for 1.
    """

    obs: Array
    action: Array
    reward: Array
    next_obs: Array
    terminal: Array
    mc_return: Array
    source: Array
    conserve: Array
    weight: Array | None = None


@dataclasses.dataclass(frozen=True)
class RowLayout:
    """One transition as one float32 row: ``[obs | action | reward | next_obs | terminal | mc_return | source]``.

    How rows are kept, and read again, says `cfdg_jax.core.ring`.

    The first `generative_width` columns are what a diffusion model of transitions generates.
    """

    obs_dim: int
    act_dim: int

    @property
    def width(self) -> int:
        """``D``, the columns of a packed row."""
        return 2 * self.obs_dim + self.act_dim + 4

    @property
    def generative_width(self) -> int:
        """Columns of the prefix a generator models: ``2 O + A + 1``, all but flag, return and source."""
        return 2 * self.obs_dim + self.act_dim + 1

    @property
    def obs(self) -> slice:
        return slice(0, self.obs_dim)

    @property
    def action(self) -> slice:
        return slice(self.obs_dim, self.obs_dim + self.act_dim)

    @property
    def reward(self) -> int:
        return self.obs_dim + self.act_dim

    @property
    def next_obs(self) -> slice:
        return slice(self.reward + 1, self.reward + 1 + self.obs_dim)

    @property
    def terminal(self) -> int:
        return self.width - 3

    @property
    def mc_return(self) -> int:
        return self.width - 2

    @property
    def source(self) -> int:
        return self.width - 1

    def pack(self, obs, action, reward, next_obs, terminal, mc_return, source, xp=jnp):
        """Packs fields with equal leading axes into rows `[..., D]`; `xp` is `jax.numpy` or `numpy`.

        `reward`, `terminal`, `mc_return` and `source` may be scalars and are broadcast.
        """
        lead = obs.shape[:-1]
        column = lambda x: xp.broadcast_to(xp.asarray(x, dtype=xp.float32), lead)[..., None]
        return xp.concatenate(
            [
                xp.asarray(obs, dtype=xp.float32),
                xp.asarray(action, dtype=xp.float32),
                column(reward),
                xp.asarray(next_obs, dtype=xp.float32),
                column(terminal),
                column(mc_return),
                column(source),
            ],
            axis=-1,
        )

    def unpack(self, rows: Array, conserve: Array | None = None) -> Batch:
        """Views rows `[..., D]` as a `Batch`; `conserve` defaults to ones (the plain base agent)."""
        assert rows.dtype != np.uint16, "kept rows are read by cfdg_jax.core.ring"
        return Batch(
            obs=rows[..., self.obs],
            action=rows[..., self.action],
            reward=rows[..., self.reward],
            next_obs=rows[..., self.next_obs],
            terminal=rows[..., self.terminal],
            mc_return=rows[..., self.mc_return],
            source=rows[..., self.source].astype(jnp.int32),
            conserve=jnp.ones(rows.shape[:-1], jnp.float32) if conserve is None else conserve,
        )


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a task looks like to an agent.

    Attributes:
      obs_dim: ``O``.
      act_dim: ``A``; actions lie in [-1, 1].
      horizon: Steps after which an episode is cut (a time limit, not a terminal).
      terminates: Whether true terminals can occur; if not, generated rows never end.
      reference: D4RL's (minimum, maximum) return of the task, or None where no reference exists.
      zeros: Columns of the observation that are always 0.
    """

    obs_dim: int
    act_dim: int
    horizon: int
    terminates: bool = True
    reference: tuple[float, float] | None = None
    zeros: int = 0

    @property
    def layout(self) -> RowLayout:
        return RowLayout(self.obs_dim, self.act_dim)


class Buffer(NamedTuple):
    """A ring of packed rows. See `cfdg_jax.core.ring`.

    Attributes:
      rows: `[C, D]`, or `[S, C, D]` with one ring per seed.
      position: `[]` int32, where the next row goes; shared by all seeds.
      size: `[]` int32, rows that hold data; shared by all seeds.
    """

    rows: Array
    position: Array
    size: Array


class Counts(NamedTuple):
    """Rows of one batch by origin; hashable, so it can be a static argument of a jitted step.

    Attributes:
      offline: Real rows from the offline dataset, where their number is fixed.
      online: Real rows from the online ring, where their number is fixed.
      pooled: Real rows whose origin is drawn, per row or per batch.
      synthetic: ``((source, rows), ...)``.
    """

    offline: int
    online: int
    pooled: int
    synthetic: tuple[tuple[int, int], ...]

    @property
    def total(self) -> int:
        return self.offline + self.online + self.pooled + sum(rows for _, rows in self.synthetic)


class Pool(NamedTuple):
    """What one seed draws from.

    Attributes:
      offline: `[N, D]`, shared by all seeds.
      online: The seed's ring.
      synthetic: Rings of generated rows by `Source`; empty before the first refresh.
    """

    offline: Array
    online: Buffer
    synthetic: Mapping[int, Buffer]


SCORE_EDGES = np.logspace(-2, 2, 13)
"""Edges of the histograms of a stratifier's scores: three bins a decade, and one open at each end."""


class StratifierState(NamedTuple):
    """A stratifier's state in a run: `shared` serves all seeds, every leaf of `own` leads with S."""

    shared: Any
    own: Any


class TrainState(NamedTuple):
    """Everything a run learns, as one pytree of arrays. Per-seed leaves lead with S; `step` and positions do not.

    Attributes:
      agent: The agent's state, `[S, ...]`.
      generator: The augmenter's state, `[S, ...]`, or () before the first refresh.
      stratifier: The stratifier's state, `StratifierState`.
      mix: The mixing rule's state, `[S, ...]`.
      online: Rows gathered online, `[S, C, D]`.
      synthetic: Generated rows by `Source` value, ``{source: Buffer}``; empty before the first refresh.
      key: `[S]` keys, constant through a run: every draw folds in its purpose and step.
      step: `[]` int32, agent updates made in this phase.
    """

    agent: Any
    generator: Any
    stratifier: StratifierState
    mix: Any
    online: Buffer
    synthetic: dict[int, Buffer]
    key: Key
    step: Array


class Step(NamedTuple):
    """What one step of n environments returned, as NumPy arrays (or JAX arrays for a `PureEnv`).

    Attributes:
      next_obs: `[n, O]` the observation that truly followed, also at an episode's end.
      reward: `[n]` raw reward.
      terminal: `[n]` bool, the task ended (no bootstrap).
      truncated: `[n]` bool, the time limit was reached (bootstrap).
      success: `[n]` bool, the task's goal was reached in this step; all False where the task defines none.
    """

    next_obs: Any
    reward: Any
    terminal: Any
    truncated: Any
    success: Any


@runtime_checkable
class Env(Protocol):
    """`num` environments of one task stepped at once on the host. Resets are explicit, never automatic."""

    spec: Spec
    num: int

    def reset(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Resets the environments where `mask` `[num]` is True (all by default); returns obs `[num, O]` of all."""
        ...

    def step(self, action: np.ndarray) -> Step:
        """Steps all environments with `action` `[num, A]` in [-1, 1]."""
        ...

    def get_state(self) -> dict[str, np.ndarray]:
        """The full simulator state, warm starts, clocks and random generators included, to continue bit for bit."""
        ...

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continues from what `get_state` returned."""
        ...

    def close(self) -> None:
        """Frees threads and handles."""
        ...


class PureEnv(NamedTuple):
    """One environment written in JAX, so that whole phases compile into one program.

    Attributes:
      spec: The task.
      reset: ``(key) -> env_state`` (a pytree of arrays, its episode clock included).
      observe: ``(env_state) -> obs [O]``.
      step: ``(env_state, action [A]) -> (env_state, Step)`` with unbatched fields; never resets by itself.
    """

    spec: Spec
    reset: Callable[[Key], Any]
    observe: Callable[[Any], Array]
    step: Callable[[Any, Array], tuple[Any, Step]]
