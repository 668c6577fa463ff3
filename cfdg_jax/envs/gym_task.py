"""Gymnasium environments as task ids: ``ID``, ``module:ID``, and either with settings, ``ID?name=value&name=value``.

Settings are what ``gymnasium.make`` takes besides the id: arguments of the environment's constructor, and
``max_episode_steps``. Values are JSON; a value that is none is text.
"""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

LIMIT = "max_episode_steps"


def parse_task(gym_id: str) -> tuple[str, dict[str, Any]]:
    """The id that Gymnasium knows, and the settings to make it with."""
    name, _, query = gym_id.partition("?")
    pairs = urllib.parse.parse_qsl(query, keep_blank_values=True)
    return name, {key: _value(text) for key, text in pairs}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def task_of_spec(spec: EnvSpec) -> str:
    """The task id, without ``gym:``, under which `parse_task` makes the environment that `spec` describes.

    Settings that are the registered ones are left out, as is how it was rendered.

    Raises:
      ValueError: with what no id can say, such as a wrapper.
    """
    registered = gymnasium.registry.get(spec.id)
    usual = {} if registered is None else registered.kwargs | {LIMIT: registered.max_episode_steps}
    settings = dict(spec.kwargs) | ({} if spec.max_episode_steps is None else {LIMIT: spec.max_episode_steps})
    settings.pop("render_mode", None)
    settings = {key: value for key, value in settings.items() if key not in usual or usual[key] != value}
    if spec.additional_wrappers:
        names = ", ".join(wrapper.name for wrapper in spec.additional_wrappers)
        raise ValueError(f"{spec.id} inside of {names}")
    try:
        texts = {key: json.dumps(value, separators=(",", ":"), allow_nan=False) for key, value in settings.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{spec.id} with settings that are no plain values ({error})") from None
    quoted = [f"{key}={urllib.parse.quote(text, safe='[]{},:.-')}" for key, text in texts.items()]
    return _module(spec) + spec.id + ("?" + "&".join(quoted) if quoted else "")


def _module(spec: EnvSpec) -> str:
    """``package:`` of an environment that is not Gymnasium's own: importing the package registers it."""
    package = spec.entry_point.split(":")[0].split(".")[0] if isinstance(spec.entry_point, str) else ""
    return "" if package in ("", "gymnasium", "__main__") else f"{package}:"
