"""The simulator put back at logged observations takes the logged steps again."""

import numpy as np
import pytest

from cfdg_jax.envs.onestep import one_step, termination
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


@pytest.mark.parametrize("task", ["hopper", "walker2d", "ant"])
def test_the_rule_of_termination_is_the_simulators(task):
    """Asked of what followed, it says what the simulator said: of random actions from the start, until they fall."""
    env, rng = make_env(task, range(8), "d4rl"), np.random.default_rng(0)
    env.reset()
    seen, ended = [], []
    for _ in range(150):
        result = env.step(rng.uniform(-1, 1, (8, env.spec.act_dim)))
        seen.append(result.next_obs)
        ended.append(result.terminal)
        env.reset(result.terminal | result.truncated)
    env.close()
    ended = np.concatenate(ended)
    assert ended.any() and not ended.all()
    np.testing.assert_array_equal(termination(task)(np.concatenate(seen)), ended)


def test_tasks_that_never_end_or_do_not_tell_their_state_have_no_rule():
    assert termination("halfcheetah") is None and termination("toy-dense") is None


def test_tasks_whose_observations_do_not_tell_the_state_have_none():
    assert one_step("toy-dense", "gymnasium") is None and one_step("gym:Pendulum-v1", "gymnasium") is None
