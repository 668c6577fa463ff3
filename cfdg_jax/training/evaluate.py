"""Evaluation: the agent's evaluation policy on environments that training never touches.

Every evaluation builds its environments from seeds that are a function of the run, the seed, the phase and the step,
so evaluating draws nothing from training's random stream and a resumed run evaluates exactly as it would have. The
first of the online phase has the seeds of the last of pre-training: what the hand-over changes is all that differs.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from cfdg_jax.data.reference_scores import normalized_score
from cfdg_jax.envs.registry import make_env
from cfdg_jax.training.act import evaluate_act
from cfdg_jax.training.program import Program, env_seed, keys_of
from cfdg_jax.training.progress import Progress


def run_episodes(
    program: Program, agent_state: Any, phase: str, step: int, progress: Progress, episodes: int | None = None
) -> dict[str, np.ndarray | None]:
    """Runs ``evaluate.episodes`` episodes of every seed at once.

    Returns:
      ``return`` `[S, E]` undiscounted raw reward, ``normalized_score`` `[S, E]` or None where the task has no
      reference, ``success`` `[S, E]` 0/1, ``length`` `[S, E]` steps.
    """
    config, lanes = program.config, len(program.config.lanes)
    count = config.evaluate.episodes if episodes is None else episodes
    if phase == "online" and step == 0 and config.offline.steps > 0:
        when = (0, config.offline.steps)
    else:
        when = (0 if phase == "offline" else 1, step)
    env_seeds = [env_seed(config, s, "evaluate_env", *when, e) for s in range(lanes) for e in range(count)]
    task, dynamics = task_of(program)
    env = make_env(task, env_seeds, dynamics, config.env.threads)
    shape, keys = (lanes, count), keys_of(program)
    returns, lengths = np.zeros(shape), np.zeros(shape, np.int64)
    success, alive = np.zeros(shape, bool), np.ones(shape, bool)
    try:
        obs = env.reset()
        with progress.bar("evaluate", program.spec.horizon) as bar:
            t = 0
            while alive.any():
                packed = jnp.asarray(obs.reshape(*shape, -1), jnp.float32)
                action = evaluate_act(program, agent_state, packed, keys, jnp.asarray(t), phase)
                result = env.step(np.asarray(action).reshape(lanes * count, -1))
                returns += alive * result.reward.reshape(shape)
                lengths += alive
                success |= alive & result.success.reshape(shape)
                alive &= ~(result.terminal | result.truncated).reshape(shape)
                obs, t = result.next_obs, t + 1
                bar.update(1)
    finally:
        env.close()
    score = normalized_score(task, returns)
    return {"return": returns, "normalized_score": score, "success": success.astype(np.float64), "length": lengths}


def task_of(program: Program) -> tuple[str, str]:
    """The environment id and the dynamics a program's config resolved to."""
    return program.config.env.task, program.config.env.dynamics
