"""The configuration of a run: frozen dataclasses, dotted overrides, a yaml round trip and a stable hash.

The four choices (`agent`, `augment`, `mix`, `stratify`) are config objects of their own files; everything else a run
needs is here. Values come from a preset (`cfdg_jax.presets`) and then from dotted overrides, ``{"agent.expectile":
"0.9"}``, which the command line builds from its flags.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import yaml

from cfdg_jax.agents.registry import AGENTS
from cfdg_jax.augment.registry import AUGMENTERS
from cfdg_jax.data.mix import MixConfig
from cfdg_jax.data.returns import Truncation
from cfdg_jax.data.transforms import ObservationKind, RewardKind
from cfdg_jax.errors import UserError, nearest, require
from cfdg_jax.stratify.registry import STRATIFIERS

REGISTRIES: dict[str, Mapping[str, Any]] = {"agent": AGENTS, "augment": AUGMENTERS, "stratify": STRATIFIERS}
"""The choices that are made by name: ``{field: {name: entry}}``; ``entry[0]`` is the config class."""


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """The environment the agent improves in."""

    task: str = ""  # environment id; empty: the dataset's own
    dynamics: Literal["auto", "d4rl", "gymnasium"] = "auto"  # auto: d4rl for d4rl:*-v2 and local:*, else gymnasium
    threads: int = 0  # native stepping threads; 0 chooses by batch and cores


@dataclasses.dataclass(frozen=True)
class TransformConfig:
    """Fitted on the offline data, applied to it and to every online row; evaluation returns stay raw."""

    reward: RewardKind = "return_range"  # reference section 1.3
    scale: float = 10.0  # of scale_bias, scale r + bias: AntMaze 10 and -5, Adroit 10 and 5 (Cal-QL)
    bias: float = -5.0
    online_reward: Literal["same", "raw"] = "same"  # of online rows; raw: implicit_q_learning on locomotion
    observation: ObservationKind = "none"  # reference section 1.4
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


@dataclasses.dataclass(frozen=True)
class RefreshConfig:
    """When and how much an augmenter generates."""

    every: int = 100_000  # T_diff, environment steps (CFDG: 100K for IQL and PEX, 10K for APL)
    min_online: int = 5_000  # no refresh while there are fewer online rows (reference section 5.4)
    rows: int = 1_000_000  # generated rows per refresh, all sources together (CFDG: synthetic buffer 1M)
    chunk: int = 10_000  # rows generated in one dispatch; bounds the memory of sampling
    fit_steps_per_call: int = 250  # generator updates scanned in one dispatch
    check: bool = True  # measure the new rows and log it (`augment.quality`): seconds a refresh, on the host
    last: bool = False  # also refresh at the very end, where no update uses it


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation on environments of its own, with the agent's evaluation policy."""

    offline_every: int = 50_000  # gradient updates between evaluations offline
    online_every: int = 10_000  # environment steps between evaluations online (reference section 1.5)
    episodes: int = 10  # per seed and evaluation (10 locomotion, 100 AntMaze)


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What is written while a run goes on; nothing leaves the machine unless a logger is named."""

    every: int = 1_000  # steps between lines of metrics.jsonl
    loggers: Literal["none", "tensorboard", "wandb"] = "none"  # beside the jsonl files; wandb runs offline by default
    wandb_mode: Literal["offline", "online"] = "offline"


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Resuming. Any checkpoint continues to the same numbers."""

    every: int = 0  # steps between checkpoints; 0: at every evaluation
    keep: int = 2  # complete checkpoints kept


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One run: a dataset, the four choices, the budget."""

    dataset: str = "local:hopper-medium-replay-v0"  # "" trains online from scratch
    agent: Any = dataclasses.field(default_factory=lambda: AGENTS["iql"][0]())
    augment: Any = dataclasses.field(default_factory=lambda: AUGMENTERS["none"][0]())
    mix: MixConfig = dataclasses.field(default_factory=MixConfig)
    stratify: Any = dataclasses.field(default_factory=lambda: STRATIFIERS["none"][0]())
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    transform: TransformConfig = dataclasses.field(default_factory=TransformConfig)
    offline: OfflineConfig = dataclasses.field(default_factory=OfflineConfig)
    online: OnlineConfig = dataclasses.field(default_factory=OnlineConfig)
    refresh: RefreshConfig = dataclasses.field(default_factory=RefreshConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    preset: str = "paper"  # the preset the values started from
    label: str = ""  # name in reports; empty: made from the four choices
    seeds: int = 5  # trained at once (5 in CFDG)
    first_seed: int = 0  # seeds first_seed .. first_seed + seeds - 1
    run_key: int = 0  # root of all randomness
    seed_axis: Literal["auto", "vmap", "scan"] = "auto"  # how the seed axis is compiled

    def __post_init__(self) -> None:
        minima = {
            "seeds": 1, "first_seed": 0, "run_key": 0, "offline.steps": 0, "offline.updates_per_call": 1,
            "online.steps": 0, "online.utd": 1, "online.update_every": 1, "online.start_steps": 0,
            "online.random_steps": 0, "online.capacity": 1, "refresh.every": 1, "refresh.min_online": 1,
            "refresh.rows": 1, "refresh.chunk": 1, "refresh.fit_steps_per_call": 1, "evaluate.offline_every": 1,
            "evaluate.online_every": 1, "evaluate.episodes": 1, "log.every": 1, "checkpoint.every": 0,
            "checkpoint.keep": 1, "env.threads": 0,
        }  # fmt: skip
        for path, least in minima.items():
            value = get_path(self, path)
            require(value >= least, path, f"is {value}", f"must be at least {least}")
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
        for field in dataclasses.fields(self.stratify):
            values = getattr(self.stratify, field.name) if field.name.endswith("_by_seed") else ()
            fits = not values or self.seeds % len(values) == 0
            found = f"has {len(values)} values and there are {self.seeds} seeds"
            require(fits, f"stratify.{field.name}", found, "make seeds a multiple of them")
        gate, capacity = self.mix.gate, self.online.capacity
        opens = self.mix.kind != "oorb" or self.online.steps == 0 or gate < min(capacity, self.online.steps)
        held = f"is {gate} with online.capacity {capacity} and online.steps {self.online.steps}"
        require(opens, "mix.gate", held, "lower it, or no batch is ever online")
        apart = choice(self, "stratify") != "a3rl" or self.mix.kind != "oorb"
        found = "is oorb, whose batches have one origin, and stratify a3rl learns to tell the two apart"
        require(apart, "mix.kind", found, "use balanced")
        both = choice(self, "stratify") != "a3rl" or 0.0 < self.mix.offline_share < 1.0
        found = f"is {self.mix.offline_share:g}, and stratify a3rl learns to tell offline rows from online ones"
        require(both, "mix.offline_share", found, "must lie strictly between 0 and 1")
        require(
            self.transform.scale != 0.0, "transform.scale", "is 0, and all rewards would be equal", "choose another"
        )
        every = self.online.update_every
        fits = self.online.steps == 0 or every <= self.online.steps
        require(fits, "online.update_every", f"is {every}", f"exceeds online.steps {self.online.steps}: lower it")

    @property
    def name(self) -> str:
        """The run's label: the given one, or such as ``IQL + CFDG``."""
        if self.label:
            return self.label
        own = AGENTS[choice(self, "agent")].stratify  # goes without saying
        chosen = [getattr(self, field) for field in REGISTRIES if choice(self, field) not in ("none", own)]
        return " + ".join(type(config).__name__.removesuffix("Config") for config in chosen)


def choice(config: TrainConfig, field: str) -> str:
    """The registered name of what `config` chose for ``agent``, ``augment`` or ``stratify``."""
    for name, entry in REGISTRIES[field].items():
        if type(getattr(config, field)) is entry[0]:
            return name
    raise TypeError(f"{field}: {type(getattr(config, field)).__name__} is not registered")


def named_choice(field: str, name: str) -> Any:
    """The default config of the registered `name` for a field, or a `UserError` with the nearest names."""
    require(name in REGISTRIES[field], field, f"'{name}' is unknown", nearest(name, REGISTRIES[field]))
    return REGISTRIES[field][name][0]()


def get_path(config: Any, path: str) -> Any:
    """The value at a dotted path."""
    for part in path.split("."):
        config = getattr(config, part)
    return config


def leaf_paths(config: Any, prefix: str = "") -> dict[str, Any]:
    """All dotted paths of plain values with their values, in declaration order."""
    paths: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            paths |= leaf_paths(value, path + ".")
        else:
            paths[path] = value
    return paths


def non_default(config: TrainConfig) -> dict[str, Any]:
    """The values that differ from the defaults of the choices made, by dotted path."""
    chosen = {field: named_choice(field, choice(config, field)) for field in REGISTRIES}
    base = leaf_paths(TrainConfig(**chosen))
    return {path: value for path, value in leaf_paths(config).items() if base[path] != value}


def override(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """`config` with the values at dotted paths replaced; strings are read as the field's type.

    Raises:
      UserError: for an unknown path (with the nearest valid ones) or a value of the wrong type.
    """
    known = leaf_paths(config)
    nested: dict[str, Any] = {}
    for path, value in values.items():
        if path not in known:
            siblings = [name for name in known if name.partition(".")[0] == path.partition(".")[0]]
            raise UserError(path, "is no config field", nearest(path, siblings or known))
        node = nested
        *parents, leaf = path.split(".")
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return _replace(config, nested, "")


def _replace(config: Any, nested: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(type(config))
    changes = {}
    for name, value in nested.items():
        current, path = getattr(config, name), prefix + name
        if dataclasses.is_dataclass(current):
            changes[name] = _replace(current, value, path + ".")
        else:
            changes[name] = coerce(hints[name], value, path)
    return dataclasses.replace(config, **changes)


def coerce(annotation: Any, value: Any, path: str) -> Any:
    """Reads `value` (a string from the command line, or a yaml value) as the annotated type."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        require(value in args, path, f"is '{value}'", nearest(str(value), map(str, args)))
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        return coerce(next(arg for arg in args if arg is not type(None)), value, path)
    if origin is tuple:
        if isinstance(value, str):
            inner = value.strip("()[] ").removesuffix(",")
            value = inner.split(",") if inner else ()
        return tuple(coerce(args[0], item.strip() if isinstance(item, str) else item, path) for item in value)
    if annotation is str:
        return str(value)
    return _number(annotation, value, path)


def _number(annotation: type, value: Any, path: str) -> Any:
    kind = {bool: "true or false", int: "a whole number", float: "a number"}[annotation]
    wrong = UserError(path, f"is '{value}'", f"must be {kind}")
    if annotation is bool:
        truth = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
        if str(value).lower() not in truth:
            raise wrong
        return truth[str(value).lower()]
    try:
        number = float(str(value).replace("_", ""))
    except ValueError:
        raise wrong from None
    require(math.isfinite(number), path, f"is {number}", "must be finite")
    if annotation is float:
        return number
    if number != int(number):
        raise wrong
    return int(number)


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain nested values; the three named choices carry their ``name``."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            entries = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(value).items()}
            name = {"name": choice(config, field.name)} if field.name in REGISTRIES else {}
            plain[field.name] = name | entries
        else:
            plain[field.name] = value
    return plain


def from_dict(plain: Mapping[str, Any]) -> TrainConfig:
    """The inverse of `to_dict`; fields left out keep their defaults."""
    config = TrainConfig()
    values: dict[str, Any] = {}
    names = {field: plain[field]["name"] for field in REGISTRIES if isinstance(plain.get(field), Mapping)}
    config = dataclasses.replace(config, **{field: named_choice(field, name) for field, name in names.items()})
    for name, value in plain.items():
        if isinstance(value, Mapping):
            values |= {f"{name}.{key}": item for key, item in value.items() if (name, key) not in _NAME_KEYS}
        elif name != "hash":
            values[name] = value
    return override(config, values)


_NAME_KEYS = {(field, "name") for field in REGISTRIES}


def config_hash(config: TrainConfig) -> str:
    """Twelve hex digits that depend on the values alone."""
    return hashlib.sha256(yaml.safe_dump(to_dict(config), sort_keys=True).encode()).hexdigest()[:12]


def to_yaml(config: TrainConfig) -> str:
    """The resolved config with its hash, as ``config.yaml`` holds it."""
    return yaml.safe_dump({"hash": config_hash(config)} | to_dict(config), sort_keys=False)


def from_yaml(text: str, name: str = "config.yaml") -> TrainConfig:
    """Reads what `to_yaml` wrote.

    Raises:
      UserError: if the text is no yaml mapping or holds unknown fields.
    """
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(name, f"is not valid yaml ({error})", "restore the file as the run wrote it") from None
    require(isinstance(plain, dict), name, "is not a mapping of config fields", "restore the file as the run wrote it")
    return from_dict(plain)
