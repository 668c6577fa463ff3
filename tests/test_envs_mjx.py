"""Robots in JAX: MuJoCo's steps to rounding, and a run of them."""

import builtins

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_helpers import TINY, lines

from cfdg_jax import make_config, train
from cfdg_jax.envs import mjx
from cfdg_jax.envs.locomotion import MujocoVecEnv
from cfdg_jax.envs.registry import make_env
from cfdg_jax.errors import UserError
from cfdg_jax.fields import config_hash, from_yaml, to_yaml

BODY = {"env.task": "halfcheetah", "env.backend": "mjx"}
pytest.importorskip("mujoco.mjx", reason="robots in JAX need the extra mjx")


@pytest.mark.parametrize(
    ("task", "dynamics", "largest"),
    [("hopper", "gymnasium", 1e-4), ("halfcheetah", "d4rl", 1e-2)],
)
def test_one_step_from_the_same_state_is_mujocos(task, dynamics, largest):
    body, robots, rng = mjx.make_body(task, dynamics), MujocoVecEnv(task, range(8), dynamics), np.random.default_rng(0)
    step, count, apart, ended = jax.jit(jax.vmap(body.step)), robots.num, [], 0
    assert body.spec == robots.spec
    robots.reset()
    for _ in range(60):
        qpos, qvel = robots.simulators.coordinates()
        warm = np.stack([data.qacc_warmstart for data in robots.simulators.datas])
        state = mjx.BodyState(*(jnp.asarray(each, jnp.float32) for each in (qpos, qvel, warm)), jnp.zeros(count, int))
        state = state._replace(qpos=state.qpos.at[:, 0].set(0.0))
        action = rng.uniform(-1.2, 1.2, (count, robots.spec.act_dim))  # clipped by both
        after, ours = step(state, jnp.asarray(action, jnp.float32))
        theirs = robots.step(action)
        apart.append(np.abs(ours.next_obs - theirs.next_obs).max(axis=1))
        np.testing.assert_allclose(ours.reward, theirs.reward, atol=1e-4)
        np.testing.assert_array_equal(ours.terminal, theirs.terminal)
        np.testing.assert_array_equal(jax.vmap(body.observe)(after), ours.next_obs)
        ended += theirs.terminal.sum()
        robots.reset(theirs.terminal)
    robots.close()
    assert np.median(apart) < 1e-4 and np.max(apart) < largest, (np.median(apart), np.max(apart))
    assert ended > 5 or task == "halfcheetah", "robots fell"


def test_episodes_begin_as_in_mujoco_and_end_at_the_time_limit():
    env, robots = make_env("halfcheetah", range(500), backend="mjx"), MujocoVecEnv("halfcheetah", range(500))
    ours, theirs = env.reset(), robots.reset()
    robots.close()
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.02)
    np.testing.assert_allclose(ours.std(0), theirs.std(0), atol=0.02)
    body, keys = env.pure, jax.random.split(jax.random.key(0), 2)
    late = jax.vmap(body.reset)(keys)._replace(elapsed=jnp.array([998, 999]))
    _, step = jax.jit(jax.vmap(body.step))(late, jnp.zeros((2, body.spec.act_dim)))
    assert step.truncated.tolist() == [False, True] and not step.terminal.any()


def test_a_run_steps_its_robots_in_jax_and_scores_them_in_mujoco(tmp_path):
    short = {"offline.steps": 0, "online.steps": 40, "online.random_steps": 0, "online.start_steps": 0}
    config = make_config("", "sac", None, None, None, "smoke", **(TINY | BODY | short))
    run = train(config, tmp_path / "run", progress=False)
    last = lines(run.folder, "evaluations.jsonl")[-1]
    assert (last["phase"], last["step"]) == ("online", 40)
    assert np.isfinite(last["normalized_score"]).all()
    losses = [line["critic_loss"] for line in lines(run.folder, "metrics.jsonl") if "critic_loss" in line]
    assert losses and np.isfinite(losses).all()


def test_runs_of_before_keep_their_hash():
    plain = make_config("", "sac", preset="smoke", **{"env.task": "halfcheetah"})
    assert "backend" not in to_yaml(plain)
    other = make_config("", "sac", preset="smoke", **BODY)
    assert config_hash(other) != config_hash(plain) and from_yaml(to_yaml(other)) == other


def test_what_mjx_does_not_step_is_refused(monkeypatch):
    with pytest.raises(UserError, match="is mjx for ant; only hopper, halfcheetah, walker2d have it"):
        make_env("ant", [0], backend="mjx")
    with pytest.raises(UserError, match="'halfcheeta' is not known; choose halfcheetah"):
        make_env("halfcheeta", [0], backend="mjx")
    real = builtins.__import__

    def missing(name, *rest):
        if name == "mujoco" and rest[2] == ("mjx",):
            raise ImportError("no module named mjx")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"cannot be imported \(no module named mjx\); pip install 'cfdg-jax\[mjx\]'"):
        make_env("hopper", [0], backend="mjx")
