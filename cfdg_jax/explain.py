"""What a config field means, and what a config changes: ``cfdg-jax train --explain FIELD`` and ``--show``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cfdg_jax import catalog
from cfdg_jax.catalog import Field
from cfdg_jax.config import REGISTRIES, TrainConfig
from cfdg_jax.fields import leaf_paths, to_yaml
from cfdg_jax.presets import make_config
from cfdg_jax.values import PRESETS, RANGES


def explanation(field: Field, given: Mapping[str, Any] | None = None) -> str:
    """All that is known of a field: meaning, type, defaults, who uses it, and where it comes from.

    Args:
      field: Of `cfdg_jax.catalog`.
      given: The choices of a run (dataset, agent and so on), to which the defaults then apply.
    """
    given, (choice, _, leaf) = dict(given or {}), field.path.partition(".")
    users = list(catalog.owners(field.path))
    shown = [given[choice]] if given.get(choice) in users else users
    rows = [("meaning", field.meaning or "see the source")]
    if leaf == "variant":
        rows += [("values", f"{name}: {', '.join(REGISTRIES[choice][name].variants)}") for name in shown]
    kinds = dict.fromkeys(filter(None, (catalog.ranges(choice, name).get(field.path) for name in shown)))
    rows += [("range", RANGES[kind][1]) for kind in kinds]
    rows += [("used by", ", ".join(users) if users else "every run")]
    rows += [("default", each) for each in _defaults(field.path, given, shown)]
    rows += [("variant", each) for each in _variants(choice, leaf, shown)]
    own = [each for name in shown for each in catalog.methods(choice)[name].sources]
    said = dict.fromkeys([*catalog.sources(field.meaning), *catalog.sources(field.about), *own])
    papers = [f"{name}: {REGISTRIES[choice][name].about}" for name in shown]
    rows += [("source", each) for each in (*said, *papers, field.place)]
    return "\n".join([f"{field.path}   {field.kind}", *(f"  {name:<9} {value}" for name, value in rows)])


def _defaults(path: str, given: dict[str, Any], users: list[str]) -> list[str]:
    """The value in each preset, for each method that has the field."""
    choice = path.partition(".")[0]
    dataset = given.get("dataset", TrainConfig.dataset)
    rows: dict[str, list[str]] = {}
    for name in users or [""]:
        own = {choice: name} if name else {}
        values = [f"{preset} {leaf_paths(_made(dataset, own, given, preset))[path]}" for preset in PRESETS]
        rows.setdefault(", ".join(values), []).append(name)
    task = dataset or given.get("env.task")
    return [f"{values}   ({', '.join([*filter(None, names), f'on {task}'])})" for values, names in rows.items()]


def _made(dataset: str, own: dict[str, Any], given: Mapping[str, Any], preset: str) -> TrainConfig:
    others = {name: given[name] for name in (*catalog.LISTS, "env.task") if name in given}
    return make_config(dataset=dataset, preset=preset, **{**others, **own})


def _variants(choice: str, leaf: str, users: list[str]) -> list[str]:
    """Releases that set the field."""
    found = []
    for name in users:
        variants = REGISTRIES[choice][name].variants
        found += [f"{name} {key}: {each.fields[leaf]}" for key, each in variants.items() if leaf in each.fields]
    return found


def marked_yaml(config: TrainConfig, base: TrainConfig) -> str:
    """``config.yaml`` of `config`, with a comment where a value is not that of `base`, its preset."""
    before, lines, room = leaf_paths(base), [], ""
    changed = {path for path, value in leaf_paths(config).items() if before.get(path, value) != value}
    for line in to_yaml(config).splitlines():
        found = re.match(r"( *)(\w+):", line)
        if found:
            room = found[2] if not found[1] else room
            path = f"{room}.{found[2]}" if found[1] else found[2]
            if path in changed:
                line += f"  # preset {base.preset}: {before[path]}"
        lines.append(line)
    return "\n".join(lines) + "\n"
