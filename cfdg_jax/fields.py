"""The values of a config by dotted path: overrides from texts, a yaml round trip and a stable hash."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import typing
from collections.abc import Mapping
from typing import Any

import yaml

from cfdg_jax import catalog
from cfdg_jax.config import REGISTRIES, TrainConfig, choice, entry_of, named_choice
from cfdg_jax.errors import UserError, require
from cfdg_jax.values import coerce


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

    A variant brings the fields of its release; `values` that name the same fields are stronger.
    """
    known = leaf_paths(config)
    nested: dict[str, Any] = {}
    for path, value in (variant_values(config, values) | dict(values)).items():
        if path not in known:
            raise UserError(path, "is no config field", catalog.instead(path, known))
        node = nested
        *parents, leaf = path.split(".")
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return _replace(config, nested, "")


def variant_values(config: TrainConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the variants that `values` names."""
    found: dict[str, Any] = {}
    for field in REGISTRIES:
        name, variants = values.get(f"{field}.variant"), entry_of(getattr(config, field), field).variants
        if name in variants:
            found |= {f"{field}.{key}": value for key, value in variants[str(name)].fields.items()}
    return found


@functools.cache
def _hints(of: type) -> dict[str, Any]:
    return typing.get_type_hints(of)


def _replace(config: Any, nested: Mapping[str, Any], prefix: str) -> Any:
    hints = _hints(config.__class__)
    changes = {}
    for name, value in nested.items():
        current, path = getattr(config, name), prefix + name
        if dataclasses.is_dataclass(current):
            changes[name] = _replace(current, value, path + ".")
        else:
            changes[name] = coerce(hints[name], value, path)
    return dataclasses.replace(config, **changes)


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, where PyYAML was built with it: five times as fast."""
PLACE = ("devices",)
"""Fields that say where a run is computed, which is none of its values."""
LATER = {"env": {"backend": "mujoco"}}
"""Fields that came after the first runs, with what those did: left out there, so that such a run keeps its hash."""


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain nested values; the four choices carry their ``name``.

    `PLACE`, an axis without fields and `LATER` at its values are left out.
    """
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in PLACE or value == {}:
            continue
        if isinstance(value, Mapping):
            plain |= {field.name: {key: list(values) for key, values in value.items()}}
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            later = LATER.get(field.name, {}).items()
            given = [item for item in dataclasses.asdict(value).items() if item not in later]
            entries = {k: list(v) if isinstance(v, tuple) else v for k, v in given}
            name = {"name": choice(config, field.name)} if field.name in REGISTRIES else {}
            plain[field.name] = name | entries
        else:
            plain[field.name] = value
    return plain


def from_dict(plain: Mapping[str, Any]) -> TrainConfig:
    """The inverse of `to_dict`; fields left out keep their defaults."""
    config = TrainConfig()
    values: dict[str, Any] = {}
    names = {field: plain[field].get("name") for field in REGISTRIES if isinstance(plain.get(field), Mapping)}
    for field, name in names.items():
        valid = f"valid: {', '.join(REGISTRIES[field])}"
        require(isinstance(name, str), f"{field}.name", "is missing" if name is None else f"is {name!r}", valid)
    config = dataclasses.replace(config, **{field: named_choice(field, name) for field, name in names.items()})
    for name, value in plain.items():
        if isinstance(value, Mapping) and dataclasses.is_dataclass(getattr(config, str(name), None)):
            values |= {f"{name}.{key}": item for key, item in value.items() if (name, key) not in _NAME_KEYS}
        elif name != "hash":
            values[name] = value
    return override(config, values)


_NAME_KEYS = {(field, "name") for field in REGISTRIES}


def config_hash(config: TrainConfig) -> str:
    """Twelve hex digits that depend on the values alone."""
    return hashlib.sha256(yaml.safe_dump(to_dict(config), sort_keys=True).encode()).hexdigest()[:12]


NOT_PRE_TRAINING = ("augment", "stratify", "online", "refresh", "label", "preset", "checkpoint", "log")
"""Parts of a config that the offline phase does not depend on."""


def pre_training_hash(config: TrainConfig) -> str:
    """Equal for configs whose offline phases are the same."""
    plain = {name: value for name, value in to_dict(config).items() if name not in NOT_PRE_TRAINING}
    plain["mix"] = config.mix.batch_size
    plain["evaluate"] = (config.evaluate.offline_every, config.evaluate.episodes)
    return hashlib.sha256(yaml.safe_dump(plain, sort_keys=True).encode()).hexdigest()


def to_yaml(config: TrainConfig) -> str:
    """The resolved config with its hash, as ``config.yaml`` holds it."""
    return yaml.safe_dump({"hash": config_hash(config)} | to_dict(config), sort_keys=False)


def from_yaml(text: str, name: str = "config.yaml") -> TrainConfig:
    """Reads what `to_yaml` wrote.

    Raises:
      UserError: if the text is no yaml mapping or holds unknown fields.
    """
    try:
        plain = yaml.load(text, LOADER)
    except yaml.YAMLError as error:
        raise UserError(name, f"is not valid yaml ({error})", "restore the file as the run wrote it") from None
    require(isinstance(plain, dict), name, "is not a mapping of config fields", "restore the file as the run wrote it")
    return from_dict(plain)


def recorded(content: bytes, name: str) -> TrainConfig:
    """Reads what `to_yaml` wrote into the file `name`, as it was written.

    Raises:
      UserError: naming the file, if it is no text, no such yaml, or its values are not those of its hash.
    """
    try:
        text = content.decode()
        config = from_yaml(text, name)
    except UnicodeDecodeError:
        raise UserError(name, "is not UTF-8 text", "restore the file as the run wrote it") from None
    except UserError as error:
        within = error.field if error.field == name else f"{name}: {error.field}"
        raise UserError(within, error.problem, error.remedy) from None
    found, values = text.split("\n", 1)[0].removeprefix("hash:").strip().strip("'\""), config_hash(config)
    changed = f"was changed since the run began (hash {found}, values give {values})"
    require(found == values, name, changed, "restore it, or start a new run with the new values")
    return config
