"""What the four tasks of Adroit's hand draw, observe and pay, as D4RL logged them.

Facts of Farama-Foundation/D4RL ``d4rl/hand_manipulation_suite/{door,hammer,pen,relocate}_v0.py``, whose -v1 sets have
the same environments. A reward is that of the state reached.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation


class Scene(NamedTuple):
    """What n simulators show: positions `[n, nq]`, velocities `[n, nv]`, and what the task looks at, `[n, _]` each."""

    qpos: np.ndarray
    qvel: np.ndarray
    seen: dict[str, np.ndarray]


Score = Callable[[np.ndarray, Scene], np.ndarray]
"""From observations `[n, O]` and their scene to one number or flag for each."""


@dataclasses.dataclass(frozen=True)
class HandTask:
    """One task.

    Attributes:
      package: The maintained package's class, whose model is taken.
      obs_dim, act_dim: Widths.
      horizon: Steps a try.
      seen: What `Scene.seen` holds: kind of object, its name, and the attribute of `mujoco.MjData`'s view of it.
      moved: Fields of the model that a reset changes: the field, the kind of object, its name.
      draw: Draws those fields of a model from a generator, in the package's order.
      joints: Leading columns of the observation that are all 0 at a reset, where the hand rests.
      place: Sets those fields of a model from a first observation, given what is seen at a reset with the fields as
        they are.
      observe: Observations of a scene `[n, O]`.
      reward, success: Of each step.
      failed: Whether a step ends the try before its time; None if nothing does.
    """

    package: str
    obs_dim: int
    act_dim: int
    horizon: int
    seen: dict[str, tuple[str, str, str]]
    moved: tuple[tuple[str, str, str], ...]
    draw: Callable[[mujoco.MjModel, np.random.Generator], None]
    joints: int
    place: Callable[[mujoco.MjModel, dict[str, np.ndarray], np.ndarray], None]
    observe: Callable[[Scene], np.ndarray]
    reward: Score
    success: Score
    failed: Score | None = None


PALM, OBJECT = ("site", "S_grasp", "xpos"), ("body", "Object", "xpos")


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a - b, axis=1)


# ---- door: undo the latch and swing it open

DOOR_LOW, DOOR_HIGH = np.array([-0.3, 0.25, 0.252]), np.array([-0.2, 0.35, 0.35])
"""Where a reset puts the door's frame."""
OPEN = 1.35
"""Angle of the hinge from which the door counts as open."""
_BONUSES = ((0.2, 2.0), (1.0, 8.0), (OPEN, 10.0))


def _draw_door(model: mujoco.MjModel, generator: np.random.Generator) -> None:
    model.body("frame").pos[:] = [generator.uniform(*ends) for ends in zip(DOOR_LOW, DOOR_HIGH, strict=True)]


def _place_door(model: mujoco.MjModel, rest: dict[str, np.ndarray], obs: np.ndarray) -> None:
    model.body("frame").pos[:] += obs[32:35] - rest["handle"]


def _observe_door(scene: Scene) -> np.ndarray:
    qpos, palm, handle = scene.qpos, scene.seen["palm"], scene.seen["handle"]
    hinge = qpos[:, -2, None]
    is_open = np.where(hinge > 1.0, 1.0, -1.0)
    return np.concatenate([qpos[:, 1:-2], qpos[:, -1:], hinge, palm, handle, palm - handle, is_open], axis=1)


def door_reward(obs: np.ndarray, velocities: np.ndarray) -> np.ndarray:
    """The reward `[n]` for reaching observations `[n, O]` with `velocities` `[n, nv]`."""
    hinge = obs[:, 28]
    reward = -0.1 * np.linalg.norm(obs[:, 35:38], axis=1) - 0.1 * (hinge - 1.57) ** 2
    reward -= 1e-5 * np.square(velocities).sum(axis=1)
    return reward + sum(bonus * (hinge > angle) for angle, bonus in _BONUSES)


# ---- hammer: pick it up and drive the nail into the board


def _draw_board(model: mujoco.MjModel, generator: np.random.Generator) -> None:
    model.body("nail_board").pos[2] = generator.uniform(0.1, 0.25)


def _place_board(model: mujoco.MjModel, rest: dict[str, np.ndarray], obs: np.ndarray) -> None:
    model.body("nail_board").pos[2] += obs[44] - rest["nail"][2]


def _observe_hammer(scene: Scene) -> np.ndarray:
    seen = scene.seen
    turned = euler_angles(seen["turn"].reshape(-1, 3, 3))
    hit = np.clip(seen["hit"], -1.0, 1.0)
    fields = (seen["palm"], seen["object"], turned, seen["nail"], hit)
    return np.concatenate([scene.qpos[:, :-6], np.clip(scene.qvel[:, -6:], -1.0, 1.0), *fields], axis=1)


def _hammer_reward(obs: np.ndarray, scene: Scene) -> np.ndarray:
    palm, held, head, nail = (scene.seen[name] for name in ("palm", "object", "head", "nail"))
    left = _distance(nail, scene.seen["goal"])
    reward = -0.1 * _distance(palm, held) - _distance(head, nail) - 10.0 * left
    reward -= 1e-2 * np.linalg.norm(scene.qvel, axis=1)
    reward += 2.0 * ((held[:, 2] > 0.04) & (head[:, 2] > 0.04))
    return reward + 25.0 * (left < 0.02) + 75.0 * (left < 0.01)


def euler_angles(turn: np.ndarray) -> np.ndarray:
    """Angles `[n, 3]` about x, y and z, applied in this order to the moved axes, of rotations `[n, 3, 3]`."""
    level = np.hypot(turn[:, 2, 2], turn[:, 1, 2])
    upright = level < 4 * np.finfo(np.float64).eps  # x and z turn about one axis there: all is told by z
    x = np.where(upright, 0.0, np.arctan2(-turn[:, 1, 2], turn[:, 2, 2]))
    z = np.where(upright, np.arctan2(turn[:, 1, 0], turn[:, 1, 1]), np.arctan2(-turn[:, 0, 1], turn[:, 0, 0]))
    return np.stack([x, np.arctan2(turn[:, 0, 2], level), z], axis=1)


# ---- pen: turn it in the hand until it points as another does


def _draw_pen(model: mujoco.MjModel, generator: np.random.Generator) -> None:
    angles = [generator.uniform(-1, 1), generator.uniform(-1, 1), 0.0]
    model.body("target").quat[:] = Rotation.from_euler("XYZ", angles).as_quat(scalar_first=True)


def _place_pen(model: mujoco.MjModel, rest: dict[str, np.ndarray], obs: np.ndarray) -> None:
    """Any turn that makes it point as observed will do: how it is turned about its own line does not show."""
    target, line = model.body("target").quat, rest["target top"] - rest["target bottom"]
    turn, _ = Rotation.align_vectors([obs[36:39]], [line / np.linalg.norm(line)])
    target[:] = (turn * Rotation.from_quat(target, scalar_first=True)).as_quat(scalar_first=True)


def _pointing(scene: Scene, which: str) -> np.ndarray:
    line = scene.seen[f"{which} top"] - scene.seen[f"{which} bottom"]
    return line / np.linalg.norm(line, axis=1, keepdims=True)


def _observe_pen(scene: Scene) -> np.ndarray:
    pen, wanted = _pointing(scene, "pen"), _pointing(scene, "target")
    place, ball = scene.seen["object"], scene.seen["ball"]
    fields = (place, scene.qvel[:, -6:], pen, wanted, place - ball, pen - wanted)
    return np.concatenate([scene.qpos[:, :-6], *fields], axis=1)


def _pen_state(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance from where it should be, cosine of the angle between the two, whether it fell."""
    place = scene.seen["object"]
    alike = (_pointing(scene, "pen") * _pointing(scene, "target")).sum(axis=1)
    return _distance(place, scene.seen["ball"]), alike, place[:, 2] < 0.075


def _pen_reward(obs: np.ndarray, scene: Scene) -> np.ndarray:
    away, alike, fell = _pen_state(scene)
    near = away < 0.075
    return alike - away + 10.0 * (near & (alike > 0.9)) + 50.0 * (near & (alike > 0.95)) - 5.0 * fell


def _pen_success(obs: np.ndarray, scene: Scene) -> np.ndarray:
    away, alike, _ = _pen_state(scene)
    return (away < 0.075) & (alike > 0.95)


# ---- relocate: carry the ball to the target


def _draw_ball(model: mujoco.MjModel, generator: np.random.Generator) -> None:
    uniform = generator.uniform
    model.body("Object").pos[:2] = uniform(-0.15, 0.15), uniform(-0.15, 0.3)
    model.site("target").pos[:] = uniform(-0.2, 0.2), uniform(-0.2, 0.2), uniform(0.15, 0.35)


def _place_ball(model: mujoco.MjModel, rest: dict[str, np.ndarray], obs: np.ndarray) -> None:
    model.body("Object").pos[:2] += (rest["palm"] - obs[30:33] - rest["object"])[:2]
    model.site("target").pos[:] += rest["palm"] - obs[33:36] - rest["target"]


def _observe_relocate(scene: Scene) -> np.ndarray:
    palm, ball, target = (scene.seen[name] for name in ("palm", "object", "target"))
    return np.concatenate([scene.qpos[:, :-6], palm - ball, palm - target, ball - target], axis=1)


def _relocate_reward(obs: np.ndarray, scene: Scene) -> np.ndarray:
    palm, ball, target = (scene.seen[name] for name in ("palm", "object", "target"))
    left, lifted = _distance(ball, target), ball[:, 2] > 0.04
    reward = -0.1 * _distance(palm, ball) + lifted * (1.0 - 0.5 * _distance(palm, target) - 0.5 * left)
    return reward + 10.0 * (left < 0.1) + 20.0 * (left < 0.05)


HAND_TASKS: dict[str, HandTask] = {
    "door": HandTask(
        "AdroitHandDoorEnv",
        *(39, 28, 200),
        {"palm": PALM, "handle": ("site", "S_handle", "xpos")},
        (("body_pos", "body", "frame"),),
        _draw_door,
        27,
        _place_door,
        _observe_door,
        lambda obs, scene: door_reward(obs, scene.qvel),
        lambda obs, scene: obs[:, 28] >= OPEN,
    ),
    "hammer": HandTask(
        "AdroitHandHammerEnv",
        *(46, 26, 200),
        {
            "palm": PALM,
            "object": OBJECT,
            "turn": ("body", "Object", "xmat"),
            "head": ("site", "tool", "xpos"),
            "nail": ("site", "S_target", "xpos"),
            "goal": ("site", "nail_goal", "xpos"),
            "hit": ("sensor", "S_nail", "data"),
        },
        (("body_pos", "body", "nail_board"),),
        _draw_board,
        27,
        _place_board,
        _observe_hammer,
        _hammer_reward,
        lambda obs, scene: _distance(scene.seen["nail"], scene.seen["goal"]) < 0.01,
    ),
    "pen": HandTask(
        "AdroitHandPenEnv",
        *(45, 24, 100),
        {
            "object": OBJECT,
            "ball": ("site", "eps_ball", "xpos"),
            "pen top": ("site", "object_top", "xpos"),
            "pen bottom": ("site", "object_bottom", "xpos"),
            "target top": ("site", "target_top", "xpos"),
            "target bottom": ("site", "target_bottom", "xpos"),
        },
        (("body_quat", "body", "target"),),
        _draw_pen,
        24,
        _place_pen,
        _observe_pen,
        _pen_reward,
        _pen_success,
        lambda obs, scene: _pen_state(scene)[2],
    ),
    "relocate": HandTask(
        "AdroitHandRelocateEnv",
        *(39, 30, 200),
        {"palm": PALM, "object": OBJECT, "target": ("site", "target", "xpos")},
        (("body_pos", "body", "Object"), ("site_pos", "site", "target")),
        _draw_ball,
        30,
        _place_ball,
        _observe_relocate,
        _relocate_reward,
        lambda obs, scene: _distance(scene.seen["object"], scene.seen["target"]) < 0.1,
    ),
}
