"""Hopper, HalfCheetah and Walker2d in MuJoCo's own JAX implementation: ``env.backend mjx``, extra ``mjx``.

The robots of all seeds are then part of the learner's program, and no step waits for the host. That is for accelerators
with hundreds of seeds: a CPU steps MuJoCo itself 10 to 50 times faster. One step from the same state differs from
MuJoCo's by rounding (docs/environments.md#robots-in-jax). Scores always come from MuJoCo itself.
"""

from __future__ import annotations

import contextlib
import functools
import io
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco

from cfdg_jax.envs.locomotion import HORIZON, ROBOTS, build_model, locomotion_spec
from cfdg_jax.errors import UserError, require
from cfdg_jax.types import Array, Key, PureEnv, Step

TASKS = ("hopper", "halfcheetah", "walker2d")
"""The planar robots; Ant, which moves in space, was not compared."""


class BodyState(NamedTuple):
    """One robot: `qpos` `[nq]` with its place along x at 0, `qvel` `[nv]`, `warmstart` `[nv]`, `elapsed` `[]` steps."""

    qpos: Array
    qvel: Array
    warmstart: Array
    elapsed: Array


@functools.cache
def make_body(task: str, dynamics: str, reference: tuple[float, float] | None = None) -> PureEnv:
    """The environment of one robot, the same object for the whole process: a program is compiled for it once.

    Args:
      task: One of `TASKS`.
      dynamics: As in `cfdg_jax.envs.locomotion.MujocoVecEnv`.
      reference: Passed on to the `Spec`.

    Raises:
      UserError: for another task, or where mujoco-mjx is not installed.
    """
    mjx, robot = package_for(task), ROBOTS[task]
    model, skip, advance = build_model(task, dynamics)
    assert advance is mujoco.mj_step  # of planar robots both dynamics are a matter of the model alone
    body, blank, interval = mjx.put_model(model), mjx.make_data(model), model.opt.timestep * skip
    first = jnp.asarray(model.qpos0, jnp.float32).at[0].set(0.0)

    def reset(key: Key) -> BodyState:
        noise = functools.partial(jax.random.uniform, minval=-robot.reset_noise, maxval=robot.reset_noise)
        of_place, of_motion = jax.random.split(key)
        normal = lambda key, shape: robot.reset_noise * jax.random.normal(key, shape)
        qvel = (normal if robot.gaussian_velocity else noise)(of_motion, (model.nv,))
        qpos = (first + noise(of_place, (model.nq,))).at[0].set(0.0)  # the place along x is neither seen nor felt
        return BodyState(qpos, qvel, jnp.zeros(model.nv), jnp.zeros((), jnp.int32))

    def observe(state: BodyState) -> Array:
        limit = robot.velocity_limit
        return jnp.concatenate([state.qpos[robot.hidden :], state.qvel.clip(-limit, limit)])

    def step(state: BodyState, action: Array) -> tuple[BodyState, Step]:
        action = jnp.clip(action, -1.0, 1.0)
        data = blank.replace(qpos=state.qpos, qvel=state.qvel, qacc_warmstart=state.warmstart, ctrl=action)
        data = jax.lax.fori_loop(0, skip, lambda _, data: mjx.step(body, data), data)
        moved, elapsed = data.qpos[0], state.elapsed + 1
        # Every step begins at 0: far from it float32 would round the distance that is rewarded.
        after = BodyState(data.qpos.at[0].set(0.0), data.qvel, data.qacc_warmstart, elapsed)
        reward = moved / interval + robot.alive_bonus - robot.control_cost * jnp.square(action).sum()
        no = jnp.zeros((), bool)
        terminal = no if robot.healthy is None else ~robot.healthy(after.qpos[None], after.qvel[None])[0]
        return after, Step(observe(after), reward, terminal, elapsed >= HORIZON, no)

    return PureEnv(locomotion_spec(task, dynamics, reference), reset, observe, step)


def package_for(task: str) -> Any:
    """``mujoco.mjx``; `UserError` unless `task` is one of `TASKS` and it can be imported."""
    require(task in TASKS, "env.backend", f"is mjx for {task}", f"only {', '.join(TASKS)} have it")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that warp, which is not used, is missing
            from mujoco import mjx
    except (ImportError, AttributeError) as error:  # the latter with a warp of another release
        remedy = "pip install 'cfdg-jax[mjx]', and no warp-lang but the one it asks for"
        raise UserError("env.backend", f"is mjx, which cannot be imported ({error})", remedy) from error
    return mjx
