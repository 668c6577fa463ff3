"""The simulator put back at logged observations takes the logged steps again."""

import numpy as np
import pytest

from cfdg_jax.envs.onestep import one_step
from cfdg_jax.envs.registry import make_env


@pytest.mark.parametrize("dynamics", ["gymnasium", "d4rl"])
@pytest.mark.parametrize("task", ["hopper", "halfcheetah", "walker2d", "ant"])
def test_logged_steps_are_taken_again(task, dynamics):
    env, rng = make_env(task, [0], dynamics), np.random.default_rng(0)
    obs, rows = env.reset(), []
    for _ in range(100):
        action = rng.uniform(-0.3, 0.3, (1, env.spec.act_dim))
        result = env.step(action)
        rows.append((obs[0], action[0], result.next_obs[0], result.reward[0]))
        done = bool((result.terminal | result.truncated)[0])
        obs = env.reset() if done else result.next_obs
    env.close()
    obs, action, next_obs, reward = (np.stack(column) for column in zip(*rows, strict=True))
    seen = np.abs(obs[:, obs.shape[1] // 2 :]).max(axis=1) < 9.9  # no velocity was clipped
    ours, rewards = one_step(task, dynamics)(obs, action)
    error = np.abs(ours - next_obs)[seen] / np.maximum(next_obs.std(axis=0), 1e-3)
    assert seen.sum() > 60 and np.median(error) < 1e-6
    assert np.quantile(error, 0.9) < 1e-3, "the contact solver starts cold, so contacts differ a little"
    assert np.median(np.abs(rewards - reward)[seen]) < (1e-6 if task != "ant" else 0.05)


def test_tasks_whose_observations_do_not_tell_the_state_have_none():
    assert one_step("toy-dense", "gymnasium") is None and one_step("gym:Pendulum-v1", "gymnasium") is None
