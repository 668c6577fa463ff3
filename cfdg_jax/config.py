"""The configuration of a run as frozen dataclasses.

The four choices (`agent`, `augment`, `mix`, `stratify`) are config objects of their own files; everything else a run
needs is here. `cfdg_jax.presets.make_config` makes configs, `cfdg_jax.fields` names their values by dotted paths.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from cfdg_jax import catalog
from cfdg_jax.agents.registry import AGENTS
from cfdg_jax.augment.registry import AUGMENTERS
from cfdg_jax.axis import Axis, Lanes, points
from cfdg_jax.data.returns import Truncation
from cfdg_jax.data.transforms import ObservationKind, RewardKind
from cfdg_jax.errors import require
from cfdg_jax.methods import Entry, registered
from cfdg_jax.mix.registry import MIXES
from cfdg_jax.stratify.registry import STRATIFIERS
from cfdg_jax.values import PRESETS

REGISTRIES: dict[str, Mapping[str, Entry]] = {
    "agent": AGENTS,
    "augment": AUGMENTERS,
    "mix": MIXES,
    "stratify": STRATIFIERS,
}
"""The four choices: ``{field: {name: entry}}``; the first of each is the default."""


def _first(field: str) -> Any:
    return next(iter(REGISTRIES[field].values())).config()


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """The environment the agent improves in."""

    task: str = ""  # environment id; empty: the dataset's own
    dynamics: Literal["auto", "d4rl", "gymnasium"] = "auto"  # auto: d4rl for d4rl:*-v2 and local:*, else gymnasium
    threads: int = 0  # native stepping threads; 0 chooses by batch and cores
    backend: Literal["mujoco", "mjx"] = "mujoco"  # of training; mjx: planar robots in JAX, for GPUs with many seeds


@dataclasses.dataclass(frozen=True)
class TransformConfig:
    """Fitted on the offline data, applied to it and to every online row; evaluation returns stay raw."""

    reward: RewardKind = "return_range"  # rescaling of rewards (docs/algorithms.md#transforms)
    scale: float = 10.0  # of scale_bias, scale r + bias: AntMaze 10 and -5, Adroit 10 and 5 (Cal-QL)
    bias: float = -5.0  # of scale_bias
    online_reward: Literal["same", "raw"] = "same"  # of online rows; raw: implicit_q_learning on locomotion
    observation: ObservationKind = "none"  # standardise: by the moments of the dataset (docs/algorithms.md#transforms)
    failure_reward: float | None = None  # raw reward of a step without success, sparse tasks (Cal-QL: AntMaze 0)
    failure_rule: Literal["all", "last"] = "all"  # rewards that must be failures: all (Cal-QL) or the last (CORL)
    truncation: Truncation = "none"  # worth of a cut trajectory after its end (none: Cal-QL; its kitchen: last_reward)


@dataclasses.dataclass(frozen=True)
class OfflineConfig:
    """Pre-training."""

    steps: int = 1_000_000  # gradient updates (IQL, PEX, CFDG section 5)
    updates_per_call: int = 250  # updates scanned in one dispatch; no effect on results beyond the draw of rows


@dataclasses.dataclass(frozen=True)
class OnlineConfig:
    """Improvement by interaction."""

    steps: int = 1_000_000  # environment steps of each seed
    utd: int = 1  # gradient updates per environment step
    update_every: int = 1  # environment steps between update blocks of update_every * utd updates (APL: 1000)
    start_steps: int = 5_000  # updates begin once this many online rows are there (PEX repository, RLPD)
    random_steps: int = 0  # uniformly random actions for this many first steps (SAC, RLPD, REDQ: start_steps)
    capacity: int = 1_000_000  # online ring, rows per seed
    overlap: bool = False  # simulators step while the device updates: actions by parameters one update older

    @property
    def updates(self) -> int:
        """Gradient updates of the whole phase: `utd` a step from `start_steps` on, or as many at the end of a block."""
        if self.update_every == 1:
            return max(self.steps - self.start_steps, 0) * self.utd
        first = max(-(-self.start_steps // self.update_every), 1)
        blocks = self.steps // self.update_every - first + 1
        return max(blocks, 0) * self.update_every * self.utd


@dataclasses.dataclass(frozen=True)
class RefreshConfig:
    """When and how much an augmenter generates."""

    every: int = 100_000  # T_diff, environment steps (CFDG: 100K for IQL and PEX, 10K for APL)
    min_online: int = 5_000  # no refresh while there are fewer online rows (docs/algorithms.md#refresh)
    rows: int = 100_000  # generated rows per refresh, all sources together (docs/algorithms.md#refresh)
    capacity: int = 1_000_000  # generated rows kept, the newest (CFDG: 1M); as many as `rows`: each refresh replaces
    chunk: int = 10_000  # rows generated in one dispatch; bounds the memory of sampling
    fit_steps_per_call: int = 250  # generator updates scanned in one dispatch
    check: bool = True  # measure the new rows and log it (`augment.quality`): seconds a refresh, on the host
    control: Literal["none", "shuffled", "oracle"] = "none"  # of a comparison (docs/algorithms.md#controls)
    last: bool = False  # also refresh at the very end, where no update uses it


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation on environments of its own, with the agent's evaluation policy."""

    offline_every: int = 50_000  # gradient updates between evaluations offline
    online_every: int = 10_000  # environment steps between evaluations online
    episodes: int = 10  # per seed and evaluation (10 locomotion, 100 AntMaze)


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What is written while a run goes on; nothing leaves the machine unless a logger is named."""

    every: int = 1_000  # steps between lines of metrics.jsonl
    loggers: Literal["none", "tensorboard", "wandb"] = "none"  # beside the jsonl files; wandb runs offline by default
    wandb_mode: Literal["offline", "online"] = "offline"  # offline: written to disk, sent nowhere


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Resuming. Any checkpoint continues to the same numbers."""

    every: int = 0  # steps between checkpoints; 0: at every evaluation
    keep: int = 2  # complete checkpoints kept


MINIMA = {
    "seeds": 1, "first_seed": 0, "run_key": 0, "offline.steps": 0, "offline.updates_per_call": 1,
    "online.steps": 0, "online.utd": 1, "online.update_every": 1, "online.start_steps": 0,
    "online.random_steps": 0, "online.capacity": 1, "refresh.every": 1, "refresh.min_online": 1,
    "refresh.rows": 1, "refresh.capacity": 1, "refresh.chunk": 1, "refresh.fit_steps_per_call": 1,
    "evaluate.offline_every": 1, "evaluate.online_every": 1, "evaluate.episodes": 1, "log.every": 1,
    "checkpoint.every": 0, "checkpoint.keep": 1, "env.threads": 0,
}  # fmt: skip
"""The smallest values of whole numbers, by dotted path."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One run: a dataset, the four choices, the budget."""

    dataset: str = "local:hopper-medium-replay-v0"  # "" trains online from scratch
    agent: Any = dataclasses.field(default_factory=lambda: _first("agent"))
    augment: Any = dataclasses.field(default_factory=lambda: _first("augment"))
    mix: Any = dataclasses.field(default_factory=lambda: _first("mix"))
    stratify: Any = dataclasses.field(default_factory=lambda: _first("stratify"))
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    transform: TransformConfig = dataclasses.field(default_factory=TransformConfig)
    offline: OfflineConfig = dataclasses.field(default_factory=OfflineConfig)
    online: OnlineConfig = dataclasses.field(default_factory=OnlineConfig)
    refresh: RefreshConfig = dataclasses.field(default_factory=RefreshConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    preset: str = ""  # the preset the values started from, which `make_config` applied; empty: none
    label: str = ""  # name in reports; empty: made from the four choices
    seeds: int = 5  # trained at once (5 in CFDG)
    first_seed: int = 0  # seeds first_seed .. first_seed + seeds - 1
    run_key: int = 0  # root of all randomness
    seed_axis: Literal["auto", "vmap", "scan"] = "auto"  # how the seed axis is compiled
    row_dtype: Literal["float32", "bfloat16"] = "float32"  # of kept rows; bfloat16: half the bytes, s' - s loses digits
    devices: str = "auto"  # that share lanes and refreshes: a number, or all; auto: at most one a lane, and 1 on CPU
    vmap: Axis = dataclasses.field(default_factory=dict)  # numbers of methods whose every value trains with every seed

    def __post_init__(self) -> None:
        for path, least in MINIMA.items():
            value = get_path(self, path)
            require(value >= least, path, f"is {value}", f"must be at least {least}")
        remedy = "it is what make_config applied: leave it out"
        require(self.preset in ("", *PRESETS), "preset", f"is {self.preset!r}", remedy)
        self._require_countable()
        require(
            self.dataset != "" or self.offline.steps == 0,
            "offline.steps",
            f"is {self.offline.steps} but there is no dataset",
            "set offline.steps to 0 or name a dataset",
        )
        require(
            self.dataset != "" or self.env.task != "",
            "env.task",
            "is empty and there is no dataset to take it from",
            "name an environment, such as --env.task hopper",
        )
        require(
            self.transform.scale != 0.0, "transform.scale", "is 0, and all rewards would be equal", "choose another"
        )
        rows, capacity = self.refresh.rows, self.refresh.capacity
        found, remedy = f"is {capacity}, and a refresh makes {rows} rows", "raise it, or lower refresh.rows"
        require(capacity >= rows, "refresh.capacity", found, remedy)
        every = self.online.update_every
        fits = self.online.steps == 0 or every <= self.online.steps
        require(fits, "online.update_every", f"is {every}", f"exceeds online.steps {self.online.steps}: lower it")
        for _ in method_remarks(self):  # conflicts are errors, and warnings are said when a run begins
            pass
        counted = self.devices.isdecimal() and int(self.devices) >= 1
        known = self.devices in ("auto", "all") or counted
        require(known, "devices", f"is '{self.devices}'", "must be a number of devices, all or auto")
        if self.vmap:
            _require_axis(self)

    def _require_countable(self) -> None:
        """Refuses whole numbers that counters, which have 32 bits, cannot hold."""
        for path, value in _whole_numbers(self):
            bits = 32 if path == "run_key" else 31
            require(abs(value) < 2**bits, path, f"is {value}", f"must be below 2^{bits}")
        last = self.first_seed + self.seeds
        require(last < 2**31, "first_seed", f"is {self.first_seed} for {self.seeds} seeds", "must stay below 2^31")
        updates = self.online.updates
        require(updates < 2**31, "online.utd", f"makes {updates} updates", "must stay below 2^31: lower it")

    @property
    def lanes(self) -> Lanes:
        """``S`` lanes: every seed at every point of `vmap`, the seeds of a point together."""
        return Lanes(range(self.first_seed, self.first_seed + self.seeds), points(self.vmap))

    @property
    def name(self) -> str:
        """The run's label: the given one, or such as ``IQL + CFDG``; what goes with the agent is not named."""
        if self.label:
            return self.label
        own = {"mix": next(iter(MIXES)), "stratify": next(iter(STRATIFIERS)), "augment": next(iter(AUGMENTERS))}
        own |= entry_of(self.agent, "agent").companions(type(self.agent))
        named = [field for field in REGISTRIES if field == "agent" or choice(self, field) != own[field]]
        return " + ".join(type(getattr(self, field)).__name__.removesuffix("Config") for field in named)


def _require_axis(config: TrainConfig) -> None:
    """Refuses fields that no program can take as arrays, and values that a run of their own would be refused for."""
    for path, values in config.vmap.items():
        choice, _, leaf = path.partition(".")
        fields = typing.get_type_hints(type(getattr(config, choice))) if choice in REGISTRIES else {}
        known = f"--vmap takes numbers of {', '.join(REGISTRIES)}, such as agent.{_example(config.agent)}"
        require(leaf in fields, path, "is no field of a method of this run", known)
        plain = fields[leaf] in (float, float | None)
        require(plain, path, "shapes the program, so its values cannot share one", f"run them one by one; {known}")
        require(len(values) > 0, path, "has no value to train", f"give it some: --vmap {path}=v1,v2")
        require(len(set(values)) == len(values), path, f"has a value twice in {values}", "give each once")
    for point in points(config.vmap):
        at_point(config, point)


def _example(config: Any) -> str:
    return next(name for name, kind in typing.get_type_hints(type(config)).items() if kind is float)


def at_point(config: TrainConfig, point: Mapping[str, float]) -> TrainConfig:
    """The run of one point of the grid alone."""
    changed: dict[str, dict[str, float]] = {}
    for path, value in point.items():
        choice, _, leaf = path.partition(".")
        changed.setdefault(choice, {})[leaf] = value
    made = {choice: dataclasses.replace(getattr(config, choice), **values) for choice, values in changed.items()}
    return dataclasses.replace(config, **made, vmap={})


def _whole_numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Dotted paths and values of all whole numbers, those in tuples too."""
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from _whole_numbers(value, path + ".")
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, int) and not isinstance(one, bool):
                yield path, one


def entry_of(config: Any, field: str) -> Entry:
    """The registered entry of the config object of a choice."""
    return registered(REGISTRIES[field], config)


def choice(config: TrainConfig, field: str) -> str:
    """The registered name of what `config` chose for ``agent``, ``augment``, ``mix`` or ``stratify``."""
    entry = entry_of(getattr(config, field), field)
    return next(name for name, each in REGISTRIES[field].items() if each is entry)


def named_choice(field: str, name: str) -> Any:
    """The default config of the registered `name` for a field, or a `UserError` with the nearest names."""
    catalog.require_method(field, name, REGISTRIES)
    return REGISTRIES[field][name].config()


def method_remarks(config: TrainConfig) -> Iterator[str]:
    """What the chosen methods warn of.

    Raises:
      UserError: for a conflict between fields of different methods.
    """
    chosen = {field: entry_of(getattr(config, field), field) for field in REGISTRIES}
    for entry in chosen.values():
        yield from entry.check(config, chosen)


def remarks(config: TrainConfig) -> Iterator[str]:
    """What a user should know before the run starts: warnings of what never happens or changes nothing."""
    online, transform = config.online, config.transform
    if online.steps and online.start_steps >= online.steps:
        yield (
            f"no update is made online, since online.start_steps is {online.start_steps} and online.steps "
            f"{online.steps}; lower the first"
        )
    if transform.failure_rule != TransformConfig.failure_rule and transform.failure_reward is None:
        yield "transform.failure_rule changes nothing without transform.failure_reward; set both"
    yield from method_remarks(config)


def resolved(config: TrainConfig) -> dict[str, Any]:
    """The four methods' configs with the values that follow from the rest of the run, as a program needs them."""
    made = {field: entry_of(getattr(config, field), field).resolve(config) for field in REGISTRIES}
    return {field: getattr(config, field) if own is None else own for field, own in made.items()}


def get_path(config: Any, path: str) -> Any:
    """The value at a dotted path."""
    for part in path.split("."):
        config = getattr(config, part)
    return config
