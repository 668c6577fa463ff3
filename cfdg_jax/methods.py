"""The four kinds of method, and how one registers.

`Agent`, `Augmenter`, `Mix` and `Stratifier` are NamedTuples of pure functions, written for one seed. A factory makes
them from a frozen config. A number that a factory computes with and never looks at may be an array, which is how
``--vmap`` trains many of its values at once (`cfdg_jax.values.is_off` asks for a plain 0).

An `Entry` is all that the rest of the package knows of a method: presets, configs, command line, benchmark and report
read entries and name no method. A method's values, checks and variants live in its own file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from cfdg_jax.errors import UserError, nearest, require
from cfdg_jax.types import Array, Batch, Buffer, Counts, Key, Metrics, Pool

Value = Callable[[Array, Array], Array]
"""``(obs [..., O], action [..., A]) -> [...]``, an agent's pessimistic critic with its current parameters."""
Values = Mapping[str, Any]
"""``{dotted config field: value}``, such as ``{"agent.expectile": 0.9}``."""
Preset = Literal["paper", "reduced", "smoke"]


class Agent(NamedTuple):
    """An actor-critic algorithm for one seed, as pure functions.

    Attributes:
      init: ``(key) -> state``.
      update: ``(state, batches, key, step) -> (state, metrics)``: K gradient updates, scanned, on a `Batch` with
        leading axes `[K, B]`; `step` `[]` int32 counts the updates made before this call and carries no seed axis, so
        schedules and delays on it are real conditions. `metrics` are means over the K updates.
      act: ``(state, obs [..., O], key, explore) -> action [..., A]`` in [-1, 1]; `explore` is a Python bool, False
        for the evaluation policy.
      go_online: ``(offline_state, key) -> online_state``, the hand-over between the phases.
      value: ``(state, obs [..., O], action [..., A]) -> [...]``, the pessimistic (minimum) target critic.
    """

    init: Callable[[Key], Any]
    update: Callable[[Any, Batch, Key, Array], tuple[Any, Metrics]]
    act: Callable[[Any, Array, Key, bool], Array]
    go_online: Callable[[Any, Key], Any]
    value: Callable[[Any, Array, Array], Array]


class Judge(NamedTuple):
    """What an agent thinks of rows at one time, for one seed.

    Attributes:
      value: Its pessimistic critic.
      act: ``(obs [..., O], key) -> action [..., A]``, its evaluation policy.
      discount: `[]` or a number.
    """

    value: Value
    act: Callable[[Array, Key], Array]
    discount: Array | float


class Augmenter(NamedTuple):
    """A generator of synthetic rows for one seed, as pure functions.

    Attributes:
      init: ``(key, offline_rows [N, D], online Buffer) -> state``: fresh networks, optimiser and average, and the
        normaliser fitted to the rows.
      fit: ``(state, offline_rows, online, key, steps) -> (state, metrics)``: `steps` (a Python int) optimiser steps,
        scanned, each on rows it draws itself. Where there is a `score`, its scores are an argument `scores`.
      generate: ``(state, key, source, rows) -> (rows [rows, D], metrics)``: `source` a synthetic `Source` (Python
        int), `rows` a Python int. Metrics hold at least ``rejected``, the rows screened out and replaced.
      shares: Share of each synthetic `Source` among generated rows, summing to 1; empty for no augmentation.
      fit_steps: Optimiser steps of one refresh.
      adopt: ``(state, offline_rows, online) -> state``. Where there is a `pretraining`, a refresh begins with this and
        not with `init`: the networks of `state` with the normaliser of the present rows. `state` is of the refresh
        before, or of the pre-training.
      pretraining: The generator as it is fitted before the online phase, its `fit_steps` steps, once for all seeds:
        its online rows are the offline rows too. None where every refresh begins afresh.
      model: ``(state, source) -> augment.rows.RowModel``, what `generate` samples from; None for no augmentation.
      score: ``(offline_rows, online, judge, key) -> scores`` of the real rows, which all calls of one fit are given;
        `judge` is the agent's, None where there is none. None for a generator that is told no scores.
    """

    init: Callable[[Key, Array, Buffer], Any]
    fit: Callable[..., tuple[Any, Metrics]]
    generate: Callable[[Any, Key, int, int], tuple[Array, Metrics]]
    shares: Mapping[int, float]
    fit_steps: int
    adopt: Callable[[Any, Array, Buffer], Any] = lambda state, offline_rows, online: state
    pretraining: Augmenter | None = None
    model: Callable[[Any, int], Any] | None = None
    score: Callable[[Array, Buffer, Judge | None, Key], Any] | None = None


class Mix(NamedTuple):
    """Puts online-phase batches together, for one seed, as pure functions.

    Attributes:
      counts: ``(shares, offline_rows) -> Counts`` of one batch; `shares` as `Augmenter.shares`, empty while there are
        no generated rows; without offline rows (0) all real rows are online.
      draw: ``(counts, pool, key, updates) -> rows [K, B, D]`` of K = `updates` batches.
      init: ``(key) -> state``.
      choose: ``(state, batches, value, act, key) -> (state, index [K B], weight [K B], metrics)``: which of the drawn
        `[K, B]` rows, numbered through, the K updates learn from in their place, and their importance weights;
        ``act(obs, key) -> action`` explores. None learns from the rows drawn.
    """

    counts: Callable[[Mapping[int, float], int], Counts]
    draw: Callable[[Counts, Pool, Key, int], Array]
    init: Callable[[Key], Any] = lambda key: ()
    choose: Callable[[Any, Batch, Value, Callable, Key], tuple[Any, Array, Array, Metrics]] | None = None


class Stage(NamedTuple):
    """One stage of a stratifier's preparation, between the offline and the online phase.

    Attributes:
      name: What it trains.
      steps: Optimiser steps.
      shared: Whether it depends on the dataset alone, so that one training serves all seeds.
    """

    name: str
    steps: int
    shared: bool = False


class Stratifier(NamedTuple):
    """Decides how conservatively each row of an online-phase batch is treated, for one seed, as pure functions.

    The state has two parts: ``shared`` serves all seeds and has no seed axis, ``own`` is of one seed.
    ``value(obs [..., O], action [..., A]) -> [...]`` below is the agent's, with its current parameters. The offline
    phase is conservative throughout and asks no stratifier.

    Attributes:
      init: ``(key) -> own``.
      mark: ``(shared, own, batch, key) -> (conserve [B], metrics)``.
      init_shared: ``(key) -> shared``.
      fit: ``(shared, own, batches, value, key) -> (own, metrics)``: training alongside K agent updates on their
        `[K, B]` `Batch`; None if nothing is learnt online.
      stages: What has to be trained before the online phase, in order.
      prepare: ``(shared, own, stage name, offline_rows [N, D], value, key, steps) -> (part, metrics)``: `steps` (a
        Python int) optimiser steps of a stage, scanned; `part` is the new `shared` of a shared stage, else the new
        `own`. A stage may be cut into calls of any length.
      observe: ``(shared, own, obs [O], key) -> own``: takes note of a state just met online; None if not needed.
      judge: ``(own, episode_return [], length []) -> own``: takes note of an episode that ended online with the sum
        `episode_return` of raw rewards after `length` steps, once updates have begun; None if not needed.
    """

    init: Callable[[Key], Any]
    mark: Callable[[Any, Any, Batch, Key], tuple[Array, Metrics]]
    init_shared: Callable[[Key], Any] = lambda key: ()
    fit: Callable[[Any, Any, Batch, Value, Key], tuple[Any, Metrics]] | None = None
    stages: tuple[Stage, ...] = ()
    prepare: Callable[[Any, Any, str, Array, Value, Key, int], tuple[Any, Metrics]] | None = None
    observe: Callable[[Any, Any, Array, Key], Any] | None = None
    judge: Callable[[Any, Array, Array], Any] | None = None


class Variant(NamedTuple):
    """The published settings of one release of a method.

    Attributes:
      fields: Values of public fields that differ from the class defaults, by field name.
      switches: What the release does otherwise than the paper, in the method's own record; no field of a config.
    """

    fields: Mapping[str, Any] = {}
    switches: Any = None


@dataclasses.dataclass(frozen=True)
class Task:
    """What preset values depend on.

    Attributes:
      name: Environment id, such as ``hopper``; empty where the dataset does not say.
      family: Kind of environment.
      agent: Config class of the run's agent: a method may serve agents with some field, whoever they are.
      has_data: Whether the run has a dataset.
      pretrains: Whether it has one, and an agent that is made to be pre-trained.
    """

    name: str
    family: Literal["locomotion", "antmaze", "adroit", "toy", "other"]
    agent: type
    has_data: bool
    pretrains: bool

    def agent_has(self, field: str) -> bool:
        """Whether the agent's config has `field`."""
        return any(each.name == field for each in dataclasses.fields(self.agent))


def _no_values(preset: Preset, task: Task) -> Values:
    return {}


def _no_check(config: Any, chosen: Mapping[str, Entry]) -> Iterator[str]:
    return iter(())


def _as_it_is(config: Any) -> Any:
    return None


@dataclasses.dataclass(frozen=True)
class Entry:
    """One registered method.

    Attributes:
      config: Its config class, a frozen dataclass; the defaults of all fields are valid.
      factory: ``agent``: ``(config, spec, phase, phase_updates) -> Agent``; ``augment``: ``(config, spec) ->
        Augmenter``; ``mix``: ``(config, spec) -> Mix``; ``stratify``: ``(config, spec) -> Stratifier``.
      about: One line: what it is, and its paper.
      values: ``(preset, task) -> Values``: its own preset values; those of fields that a run lacks are left out.
      check: ``(config, chosen) -> warnings`` of a whole `TrainConfig` and the entries of its four choices; raises
        `UserError` for a conflict.
      resolve: ``(config) -> own config or None``: its config with the values that follow from the rest of the run,
        asked once when the program is built; None where nothing follows.
      companions: ``(agent's config class) -> {choice: name}``: what it goes with unless something else is named.
      variants: Releases by name, selected by the field ``variant``.
      pretrains: Whether an agent is made to be pre-trained on logged data.
      without: For the contract test, of an agent with an offline regulariser: fields of a config, and fields of the
        same config without the regulariser. None for an agent that has none.
      one_dataset: Of an augmenter, the fields that fit it to one dataset alone; None for one that needs two.
    """

    config: type
    factory: Callable[..., Any]
    about: str = ""
    values: Callable[[Preset, Task], Values] = _no_values
    check: Callable[[Any, Mapping[str, Entry]], Iterator[str]] = _no_check
    resolve: Callable[[Any], Any] = _as_it_is
    companions: Callable[[type], Mapping[str, str]] = lambda agent: {}
    variants: Mapping[str, Variant] = dataclasses.field(default_factory=dict)
    pretrains: bool = True
    without: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
    one_dataset: Mapping[str, Any] | None = None


def check_variant(field: str, name: str, variants: Mapping[str, Variant]) -> None:
    """Refuses a variant that is not in the table of a method, such as ``agent.variant``."""
    if name not in variants:
        raise UserError(field, f"'{name}' is unknown", nearest(name, variants, f"cfdg-jax train --explain {field}"))


def registered(entries: Mapping[str, Entry], config: Any) -> Entry:
    """The entry whose config class `config` is an instance of.

    Raises:
      UserError: if there is none.
    """
    for entry in entries.values():
        if type(config) is entry.config:
            return entry
    require(False, type(config).__name__, "is not the config of a registered method", f"valid: {', '.join(entries)}")
    raise AssertionError
