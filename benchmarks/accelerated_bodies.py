"""Do MuJoCo's JAX bodies (mujoco-mjx) step as MuJoCo does, and how fast? Extra ``mjx``.

    python benchmarks/accelerated_bodies.py benchmarks/results/accelerated-bodies.json

200 transitions of each body and dynamics, half of random actions and half of the shipped policies. Each is stepped once
from the same positions, velocities and action by ``env.backend mjx``; the error of a transition is the largest of its
observation.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from cfdg_jax.data.behaviours import ASSETS
from cfdg_jax.data.collect import load_policies
from cfdg_jax.envs.locomotion import ROBOTS, MujocoVecEnv, build_model
from cfdg_jax.envs.mjx import TASKS, BodyState, make_body

TRANSITIONS, BATCHES, NEAR = 200, (16, 256), 1e-3
LIGHT = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
"""To compile in seconds what is called once."""
States = tuple[np.ndarray, np.ndarray, np.ndarray]
"""qpos `[n, nq]`, qvel `[n, nv]`, action `[n, A]`."""


def rollouts(task: str, dynamics: str) -> States:
    """States and actions from 20 episodes, ten of random actions and ten of policies from untrained to expert."""
    policies = list(load_policies(ASSETS / f"{task}-policies.npz").values())
    env, rng, found = MujocoVecEnv(task, range(20), dynamics), np.random.default_rng(0), []
    obs = env.reset()
    for _ in range(300):
        action = rng.uniform(-1.0, 1.0, (20, env.spec.act_dim))
        for i in range(10):
            action[i] = policies[i % len(policies)](obs[i : i + 1], rng)[0]
        action = np.clip(action, -1.0, 1.0)
        found.append((*(each.copy() for each in env.simulators.coordinates()), action))
        result = env.step(action)
        ended = result.terminal | result.truncated
        obs = env.reset(ended) if ended.any() else result.next_obs
    env.close()
    every = [np.concatenate(each) for each in zip(*found, strict=True)]
    of_a_kind = np.arange(len(every[0])).reshape(-1, 2, 10)
    chosen = np.concatenate([rng.choice(of_a_kind[:, kind].ravel(), TRANSITIONS // 2, False) for kind in (0, 1)])
    return tuple(each[chosen] for each in every)  # type: ignore[return-value]


def by_mujoco(task: str, dynamics: str, states: States) -> np.ndarray:
    """The next observations `[n, O]`."""
    robot, (model, skip, advance) = ROBOTS[task], build_model(task, dynamics)
    data, after = mujoco.MjData(model), []
    for qpos, qvel, action in zip(*states, strict=True):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, action
        advance(model, data, skip)
        seen = np.clip(data.qvel, -robot.velocity_limit, robot.velocity_limit)
        after.append(np.concatenate([data.qpos[robot.hidden :], seen]))
    return np.stack(after)


def by_jax(
    task: str, dynamics: str, states: States, options: dict[str, Any] | None = None
) -> tuple[Callable[..., Any], BodyState, jax.Array]:
    """A compiled step of a batch, the states as it takes them, and the actions."""
    body = make_body.__wrapped__(task, dynamics)  # not the one that is kept: of this precision
    step = jax.jit(jax.vmap(body.step), compiler_options=options)
    qpos, qvel, action = map(jnp.asarray, states)
    return step, BodyState(qpos, qvel, jnp.zeros_like(qvel), jnp.zeros(len(qpos), jnp.int32)), action


def agreement(task: str, dynamics: str, states: States, double: bool) -> dict[str, float]:
    """Errors of the JAX body, in one precision."""
    with jax.enable_x64(double):
        step, begun, action = by_jax(task, dynamics, states, LIGHT if jax.default_backend() == "cpu" else None)
        found = np.asarray(step(begun, action)[1].next_obs, np.float64)
    error = np.abs(found - by_mujoco(task, dynamics, states)).max(axis=1)
    ends = {"median": float(np.median(error)), "largest": float(error.max())}
    return ends | {"near": float((error < NEAR).mean()), "ninety_of_100": float(np.quantile(error, 0.9))}


def rates(task: str, states: States, batch: int, calls: int = 5) -> dict[str, float]:
    """Environment steps a second of both, and the seconds that compiling takes."""
    some = [np.resize(each, (batch, each.shape[1])) for each in states]
    (step, carried, action), start = by_jax(task, "gymnasium", some), time.perf_counter()  # type: ignore[arg-type]
    carried, _ = jax.block_until_ready(step(carried, action))
    compiling, start = time.perf_counter() - start, time.perf_counter()
    for _ in range(calls):
        carried, _ = jax.block_until_ready(step(carried, action))
    ours, env = batch * calls / (time.perf_counter() - start), MujocoVecEnv(task, range(batch))
    env.reset()
    start = time.perf_counter()
    for _ in range(10 * calls):
        env.step(some[2])
    theirs = batch * 10 * calls / (time.perf_counter() - start)
    env.close()
    return {"jax": ours, "mujoco": theirs, "compiling_seconds": compiling}


def main(out: str) -> None:
    """Measures all bodies and writes the numbers; progress goes to the terminal."""
    machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "jax": jax.__version__}
    versions = {"mujoco": mujoco.__version__, "mujoco_mjx": importlib.metadata.version("mujoco-mjx")}
    found: dict[str, Any] = machine | versions | {"platform": jax.devices()[0].platform}
    for task in TASKS:
        found[task] = {}
        for dynamics, name in itertools.product(("gymnasium", "d4rl"), ("float32", "float64")):
            states = rollouts(task, dynamics)
            found[task][f"{dynamics}, {name}"] = agreement(task, dynamics, states, name == "float64")
        found[task]["steps_per_second"] = {str(batch): rates(task, states, batch) for batch in BATCHES}
        print(task, json.dumps(found[task]), flush=True)
        pathlib.Path(out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
