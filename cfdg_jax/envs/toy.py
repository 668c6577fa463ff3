"""A 2-D point mass that must go around a wall, in JAX: the task on which a whole pipeline compiles into one program.

The mass starts at the lower left of the square [-1, 1]^2; the goal lies at the lower right; a wall between them leaves
a passage at the top. Straight ahead is blocked, so noise alone hardly ever arrives, a controller does in about 35
steps, and data of controllers with different noise ranges from useless to optimal.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.types import Array, Key, PureEnv, Spec, Step

START = (-0.6, -0.6)
GOAL = (0.6, -0.6)
GOAL_RADIUS = 0.15
START_NOISE = 0.1
HORIZON = 100
WALL_HALF_WIDTH = 0.1  # as wide as two of the longest steps, so that no step jumps it
WALL_TOP = 0.4
_TIME_STEP = 0.1
_FRICTION = 0.8  # share of its velocity the mass keeps in a step
_THRUST = 1.0 - _FRICTION  # so that full thrust settles at speed 1 along an axis
_CLEARANCE = 0.12  # distance the scripted controller keeps from the wall's corners


class ToyState(NamedTuple):
    """One point mass: `position` `[2]`, `velocity` `[2]`, `elapsed` `[]` int32 steps of the episode."""

    position: Array
    velocity: Array
    elapsed: Array


def make_toy(reward: Literal["sparse", "dense"]) -> PureEnv:
    """The point mass with observations ``[x, y, vx, vy]`` and thrust `[2]` in [-1, 1].

    Args:
      reward: ``sparse`` pays 1 on arrival; ``dense`` also pays the shortening of the way around the wall.

    Returns:
      A `PureEnv` whose episodes end at the goal (`terminal` and `success`) or after `HORIZON` steps (`truncated`).
    """

    def reset(key: Key) -> ToyState:
        noise = jax.random.uniform(key, (2,), minval=-START_NOISE, maxval=START_NOISE)
        return ToyState(jnp.asarray(START) + noise, jnp.zeros(2), jnp.zeros((), jnp.int32))

    def step(state: ToyState, action: Array) -> tuple[ToyState, Step]:
        position, velocity = _move(state.position, state.velocity, jnp.clip(action, -1.0, 1.0))
        state_next = ToyState(position, velocity, state.elapsed + 1)
        arrived = jnp.linalg.norm(position - jnp.asarray(GOAL)) <= GOAL_RADIUS
        paid = arrived.astype(jnp.float32)
        if reward == "dense":
            paid += way_length(state.position) - way_length(position)
        return state_next, Step(observe(state_next), paid, arrived, state_next.elapsed >= HORIZON, arrived)

    return PureEnv(Spec(obs_dim=4, act_dim=2, horizon=HORIZON), reset, observe, step)


TASKS = ("toy-sparse", "toy-dense")


def step_from(task: str, obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Next observations `[n, 4]`, rewards `[n]` and terminals `[n]` from observed states, which are whole states."""
    env = make_toy("sparse" if task == "toy-sparse" else "dense")
    seen = jnp.asarray(obs, jnp.float32)
    states = ToyState(seen[:, :2], seen[:, 2:], jnp.zeros(len(obs), jnp.int32))
    _, step = jax.jit(jax.vmap(env.step))(states, jnp.asarray(action, jnp.float32))
    return np.asarray(step.next_obs), np.asarray(step.reward), np.asarray(step.terminal)


def observe(state: ToyState) -> Array:
    """``[x, y, vx, vy]``."""
    return jnp.concatenate([state.position, state.velocity])


def _move(position: Array, velocity: Array, thrust: Array) -> tuple[Array, Array]:
    """One step of damped motion; the square's edge and the wall stop the component of velocity that runs into them."""
    velocity = _FRICTION * velocity + _THRUST * thrust
    free = position + _TIME_STEP * velocity
    x, y = jnp.clip(free, -1.0, 1.0)
    beside = position[1] < WALL_TOP
    left, right = position[0] <= -WALL_HALF_WIDTH, position[0] >= WALL_HALF_WIDTH
    x = jnp.where(beside & left, jnp.minimum(x, -WALL_HALF_WIDTH), x)
    x = jnp.where(beside & right, jnp.maximum(x, WALL_HALF_WIDTH), x)
    over = jnp.abs(x) < WALL_HALF_WIDTH
    y = jnp.where(over, jnp.maximum(y, WALL_TOP), y)
    moved = jnp.stack([x, y])
    return moved, jnp.where(jnp.abs(moved - free) > 1e-6, 0.0, velocity)


def way_length(position: Array) -> Array:
    """Length `[]` of the shortest way from `position` `[2]` to the goal around the wall."""
    goal = jnp.asarray(GOAL)
    near, far = jnp.asarray([-WALL_HALF_WIDTH, WALL_TOP]), jnp.asarray([WALL_HALF_WIDTH, WALL_TOP])
    last = jnp.linalg.norm(goal - far)
    return jnp.where(
        _sees_goal(position, WALL_HALF_WIDTH, WALL_TOP),
        _distance(position, goal),
        jnp.where(
            position[1] >= WALL_TOP,
            _distance(position, far) + last,
            _distance(position, near) + 2 * WALL_HALF_WIDTH + last,
        ),
    )


def behaviour(obs: Array, key: Key, noise: float | Array) -> Array:
    """The scripted controller: thrust `[2]` for `obs` `[4]` towards the next corner or the goal, plus Gaussian noise.

    Args:
      obs: ``[x, y, vx, vy]``.
      key: The noise's key.
      noise: Standard deviation added to each thrust, in units of full thrust; 0 is near optimal, with 2 about half
        of the episodes arrive, with 5 hardly any.
    """
    position, velocity = obs[:2], obs[2:]
    width, top = WALL_HALF_WIDTH + _CLEARANCE, WALL_TOP + _CLEARANCE
    # Aim a little above a corner: the mass must pass the height at which the far corner comes next.
    corner = jnp.stack([jnp.where(position[1] >= top, width, -width), jnp.asarray(top + 0.05)])
    target = jnp.where(_sees_goal(position, width, top), jnp.asarray(GOAL), corner)
    towards = target - position
    wished = towards / jnp.maximum(jnp.linalg.norm(towards), 1e-6)
    thrust = jnp.clip((wished - _FRICTION * velocity) / _THRUST, -1.0, 1.0)
    return jnp.clip(thrust + noise * jax.random.normal(key, (2,)), -1.0, 1.0)


def _sees_goal(position: Array, half_width: float, top: float) -> Array:
    """Whether the straight line to the goal clears a wall of this size; the goal lies right of it, below its top."""
    run = GOAL[0] - position[0]
    height_at_face = GOAL[1] + (position[1] - GOAL[1]) * (GOAL[0] - half_width) / jnp.where(run > 0, run, 1.0)
    return (position[0] >= half_width) | (height_at_face >= top)


def _distance(a: Array, b: Array) -> Array:
    return jnp.linalg.norm(a - b)
