"""D4RL's dynamics as Gymnasium environments, for other libraries."""

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from cfdg_jax.envs.d4rl_env import D4RLEnv
from cfdg_jax.envs.registry import make_env, spec_of
from cfdg_jax.errors import UserError
from cfdg_jax.gym_ids import IDS


@pytest.mark.parametrize("name", IDS)
def test_each_id_is_made_with_the_spaces_and_limit_of_its_task(name):
    env, (task, limit) = gymnasium.make(name), IDS[name]
    spec = spec_of(task, "d4rl")
    assert env.observation_space.shape == (spec.obs_dim,) and env.action_space.shape == (spec.act_dim,)
    assert env.spec.max_episode_steps == limit == spec.horizon
    env.close()


@pytest.mark.parametrize("first", ["import cfdg_jax, gymnasium", "import gymnasium, cfdg_jax", "import gymnasium"])
def test_the_ids_are_known_once_both_are_imported_and_importing_ours_alone_imports_nothing(first):
    name = "cfdg/Hopper-d4rl-v0" if "cfdg_jax" in first else "cfdg_jax:cfdg/Hopper-d4rl-v0"
    code = f"import sys; import cfdg_jax; assert 'gymnasium' not in sys.modules; {first}" if first[7] == "c" else first
    code += f"; gymnasium.make({name!r}).reset()"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


@pytest.mark.filterwarnings("ignore:.*Box observation space:UserWarning")
def test_gymnasium_finds_no_fault():
    env = gymnasium.make("cfdg_jax.envs:cfdg/Hopper-d4rl-v0")
    check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_it_is_the_environment_that_runs_use():
    env, ours = gymnasium.make("cfdg/Hopper-d4rl-v0"), make_env("hopper", [5], "d4rl")
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(env.reset(seed=5)[0], ours.reset()[0])
    for _ in range(60):
        action = rng.uniform(-1, 1, 3).astype(np.float32)
        obs, reward, terminal, truncated, info = env.step(action)
        step = ours.step(action[None])
        np.testing.assert_array_equal(obs, step.next_obs[0])
        assert (reward, terminal, truncated, info) == (step.reward[0], step.terminal[0], False, {"success": False})
        if terminal:
            np.testing.assert_array_equal(env.reset()[0], ours.reset()[0])
    plain = gymnasium.make("Hopper-v4")
    plain.reset(seed=5)
    assert np.abs(plain.unwrapped.model.geom_margin - env.unwrapped._env.simulators.model.geom_margin).max() > 0


def test_only_pictures_can_be_asked_for():
    with pytest.raises(UserError, match=r"render_mode: is 'ansi'; must be None or 'rgb_array'"):
        D4RLEnv("hopper", render_mode="ansi")


def test_where_nothing_renders_the_error_names_what_the_caller_wrote(monkeypatch):
    monkeypatch.setattr("mujoco.Renderer", lambda *args: (_ for _ in ()).throw(RuntimeError("no GL")))
    env = gymnasium.make("cfdg/Hopper-d4rl-v0", render_mode="rgb_array")
    env.reset()
    with pytest.raises(UserError, match=r"^render_mode: nothing renders here \(RuntimeError: no GL\); install EGL"):
        env.render()
