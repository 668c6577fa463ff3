"""The agreement check: silent on data that are the environment's own, one clear sentence for each way they are not."""

import dataclasses

import numpy as np
import pytest

from cfdg_jax.data.collect import collect
from cfdg_jax.data.dataset import from_arrays
from cfdg_jax.data.load import load_dataset
from cfdg_jax.envs.agreement import agreement
from cfdg_jax.envs.registry import make_env

MUJOCO_PY = ["hopper-v2-return3590", "halfcheetah-v2-return7582", "ant-v2-return774", "ant-v2-return5545"]

WIDTHS = {"hammer": 26, "pen": 24, "relocate": 30}


def agreement_warning(data, task, dynamics):
    return agreement(data, task, dynamics).warning


def smooth(obs, rng):
    """Actions of small size that follow the observation, so that rows are ordinary ones."""
    width = {11: 3, 17: 6, 4: 2, 29: 8}[obs.shape[1]]
    return np.clip(0.3 * obs[:, :width] + 0.4 * rng.standard_normal((len(obs), width)), -1, 1)


def logged(task, dynamics="d4rl", rows=1500, policy=smooth):
    env = make_env(task, range(5), dynamics, threads=1)
    arrays = collect(env, policy, rows, np.random.default_rng(0))
    return from_arrays(arrays, f"{task} data", task=task, dynamics=dynamics)


@pytest.fixture(scope="module")
def cheetah():
    return logged("halfcheetah")


@pytest.fixture(scope="module")
def hopper():
    return logged("hopper")


@pytest.mark.parametrize("task", ["hopper", "halfcheetah", "walker2d", "toy-sparse", "toy-dense", "antmaze-umaze"])
def test_own_rows_agree(task):
    data = logged(task, "gymnasium" if task.startswith("toy") else "d4rl", 700)
    found = agreement(data, task, data.dynamics)
    assert found.mismatches == () and found.rows >= 190
    assert found.observation_error[0] < 1e-4
    assert (found.reward_error is None) == task.startswith("antmaze")
    assert any("the goal is not in the observation" in note for note in found.notes) == task.startswith("antmaze")


@pytest.mark.parametrize("name", MUJOCO_PY)
def test_real_recordings_agree_with_d4rls_dynamics_only(data_dir, name):
    data = load_dataset(data_dir / "gym_v2_mujoco_py" / f"{name}.hdf5")
    found = agreement(data, data.task, "d4rl")
    assert found.mismatches == () and found.observation_error[0] < 5e-5 and found.terminal_errors == 0
    if data.task != "ant":
        warning = agreement_warning(data, data.task, "gymnasium")
        assert "they agree with dynamics d4rl: set env.dynamics to d4rl" in warning


def test_the_real_door_agrees(data_dir):
    pytest.importorskip("gymnasium_robotics", reason="the extra adroit is not installed")
    data = load_dataset(data_dir / "d4rl" / "door-v0_demos_clipped.hdf5")
    found = agreement(data, data.task, data.dynamics)
    assert found.mismatches == () and found.rows == 200 and found.observation_error[0] < 1e-5
    assert "velocities are not in the observation" in found.notes[0]
    wrong = dataclasses.replace(data, rewards=-data.rewards)
    assert "their sign is reversed" in agreement_warning(wrong, "door", "d4rl")


@pytest.mark.parametrize("task", ["hammer", "pen", "relocate"])
def test_the_other_tasks_of_the_hand_are_replayed_from_where_it_rests(task):
    pytest.importorskip("gymnasium_robotics", reason="the extra adroit is not installed")
    data = logged(task, rows=1500, policy=lambda obs, rng: rng.uniform(-0.4, 0.4, (len(obs), WIDTHS[task])))
    found = agreement(data, task, "d4rl")
    assert found.mismatches == () and found.rows >= 100 and found.observation_error[0] < 1e-5
    wrong = dataclasses.replace(data, rewards=-data.rewards)
    assert "their sign is reversed" in agreement_warning(wrong, task, "d4rl")


def test_wrong_dynamics(hopper):
    warning = agreement_warning(hopper, "hopper", "gymnasium")
    assert warning.startswith("the data and the environment hopper (gymnasium dynamics) disagree: ")
    assert "they agree with dynamics d4rl" in warning and "(median " in warning


def test_another_body_of_the_same_width(cheetah):
    warning = agreement_warning(cheetah, "walker2d", "d4rl")
    assert "they are rows of halfcheetah (d4rl dynamics): set env.task to halfcheetah" in warning


def test_other_widths(cheetah):
    assert "widths (17, 6), the environment's (11, 3)" in agreement_warning(cheetah, "hopper", "d4rl")


def test_wrong_reward_sign(cheetah):
    warning = agreement_warning(dataclasses.replace(cheetah, rewards=-cheetah.rewards), "halfcheetah", "d4rl")
    assert "their sign is reversed: recorded = -1 x the environment's" in warning


def test_scaled_rewards(cheetah):
    changed = dataclasses.replace(cheetah, rewards=10 * cheetah.rewards - 1)
    assert "recorded = 10 x the environment's - 1" in agreement_warning(changed, "halfcheetah", "d4rl")


@pytest.mark.parametrize(("shift", "words"), [(1, "late"), (-1, "early")])
def test_rewards_one_row_off(cheetah, shift, words):
    changed = dataclasses.replace(cheetah, rewards=np.roll(cheetah.rewards, shift))
    assert f"they are recorded one row too {words}" in agreement_warning(changed, "halfcheetah", "d4rl")


def test_another_version_of_the_environment(hopper):
    """-v5 pays no bonus on the last step."""
    changed = dataclasses.replace(hopper, rewards=hopper.rewards - hopper.terminals)
    assert "-v5 environments pay no bonus for the last step" in agreement_warning(changed, "hopper", "d4rl")


@pytest.mark.parametrize(("shift", "words"), [(1, "next"), (-1, "previous")])
def test_shifted_actions(cheetah, shift, words):
    changed = dataclasses.replace(cheetah, actions=np.roll(cheetah.actions, shift, axis=0))
    warning = agreement_warning(changed, "halfcheetah", "d4rl")
    assert f"they agree with the action of the {words} row: actions are shifted" in warning


def test_clipped_actions(cheetah):
    changed = dataclasses.replace(cheetah, actions=cheetah.actions.clip(-0.9, 0.9))
    warning = agreement_warning(changed, "halfcheetah", "d4rl")
    assert "only rows with actions at the bound of 0.9 do: actions were clipped after they had acted" in warning


def test_standardised_observations(cheetah):
    mean, spread = cheetah.observations.mean(axis=0), cheetah.observations.std(axis=0)
    scale = lambda obs: (obs - mean) / spread
    changed = dataclasses.replace(
        cheetah, observations=scale(cheetah.observations), next_observations=scale(cheetah.next_observations)
    )
    assert "observations look standardised" in agreement_warning(changed, "halfcheetah", "d4rl")


def test_wrong_terminals(hopper, cheetah):
    limits = hopper.terminals | (np.arange(len(hopper)) % 9 == 0)
    warning = agreement_warning(dataclasses.replace(hopper, terminals=limits, ends=limits), "hopper", "d4rl")
    assert "recorded terminals are none in the environment" in warning
    limits = cheetah.ends | (np.arange(len(cheetah)) % 9 == 0)
    warning = agreement_warning(dataclasses.replace(cheetah, terminals=limits, ends=limits), "halfcheetah", "d4rl")
    assert "recorded terminals are none in the environment" in warning


def test_what_cannot_be_placed_is_said(cheetah):
    for task, words in (("gym:Pendulum-v1", "cannot be put into a recorded state"), ("", "do not name an environment")):
        found = agreement(cheetah, task, "gymnasium")
        assert found.rows == 0 and found.mismatches == () and words in found.notes[0]
        assert agreement_warning(cheetah, task, "gymnasium") == ""


def test_generated_rows_are_only_near(cheetah):
    noise = np.random.default_rng(0).normal(scale=0.01, size=cheetah.observations.shape).astype("f4")
    metadata = {"return_low": 0.0, "return_high": 1.0}
    rows = dataclasses.replace(cheetah, next_observations=cheetah.next_observations + noise, metadata=metadata)
    found = agreement(rows, "halfcheetah", "d4rl")
    assert found.warning == "" and "rows were generated and are near the environment's" in found.notes[-1]
