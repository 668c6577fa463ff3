"""Replays of real recordings: mujoco-py's under ``dynamics="d4rl"``, ``-v4``'s under the installed MuJoCo."""

import copy

import h5py
import mujoco
import numpy as np
import pytest

from cfdg_jax.envs.dynamics import mean_velocity_rk4, restore_margins
from cfdg_jax.envs.locomotion import ROBOTS, MujocoVecEnv, build_model

MUJOCO_PY = [
    "hopper-v2-return3590",
    "halfcheetah-v2-return7582",
    "ant-v2-return774",
    "ant-v2-return1149",
    "ant-v2-return5545",
]
ROWS = 200


def recording(path):
    """Transitions `(obs, action, reward, next_obs)` of a file, episode ends left out where the next one is not kept."""
    with h5py.File(path) as file:
        columns = {name: file[name][:] for name in file}
    obs = columns["observations"].astype(np.float64)
    inside = ~(columns["terminals"] | columns["timeouts"])
    following = columns["next_observations"] if "next_observations" in columns else np.roll(obs, -1, axis=0)
    inside[-1] = False
    return tuple(
        column[inside].astype(np.float64) for column in (obs, columns["actions"], columns["rewards"], following)
    )


def sample(task, path):
    """`ROWS` transitions spread over a file, none with a velocity clipped in its observations."""
    obs, action, reward, following = recording(path)
    model, _, _ = build_model(task, "gymnasium")
    velocities = slice(model.nq - ROBOTS[task].hidden, ROBOTS[task].obs_dim)
    largest = np.abs(np.stack([obs[:, velocities], following[:, velocities]])).max(axis=(0, 2))
    rows = np.flatnonzero(largest < ROBOTS[task].velocity_limit - 1e-4)
    rows = rows[np.linspace(0, len(rows) - 1, ROWS).astype(int)]
    return obs[rows], action[rows], reward[rows], following[rows]


def placed(task, model, obs):
    """One simulator, put into each observed state in turn, hidden coordinates at zero."""
    hidden, data = ROBOTS[task].hidden, mujoco.MjData(model)
    for row in obs:
        mujoco.mj_resetData(model, data)
        data.qpos[:hidden] = 0
        data.qpos[hidden:] = row[: model.nq - hidden]
        data.qvel[:] = row[model.nq - hidden : ROBOTS[task].obs_dim]
        mujoco.mj_forward(model, data)
        yield data


def vector_env(task, dynamics, obs):
    """A `MujocoVecEnv` with one environment in each observed state."""
    env = MujocoVecEnv(task, range(len(obs)), dynamics)
    model, state = build_model(task, dynamics)[0], env.get_state()
    for row, data in zip(state["physics"], placed(task, model, obs), strict=True):
        mujoco.mj_getState(model, data, row, mujoco.mjtState.mjSTATE_INTEGRATION)
    env.set_state({**state, "x": np.zeros(len(obs))})
    return env


def error(found, expected):
    """Relative where numbers are large, the worst over dimensions: `[rows]`."""
    return (np.abs(found - expected) / np.maximum(1.0, np.abs(expected))).max(axis=1)


@pytest.mark.parametrize("name", MUJOCO_PY)
def test_d4rl_dynamics_replay_mujoco_py(data_dir, name):
    task = name.split("-")[0]
    obs, action, reward, following = sample(task, data_dir / "gym_v2_mujoco_py" / f"{name}.hdf5")
    step = vector_env(task, "d4rl", obs).step(action)
    errors = error(step.next_obs, following)
    assert np.median(errors) < 1e-6
    assert np.percentile(errors, 99) < 1e-5, "one in 2,000 recorded states is a float32 rounding away from a contact"
    assert not step.terminal.any()
    if task != "ant":  # its reward counts from a place that a recording does not hold
        assert np.abs(step.reward - reward).max() < 1e-5
    untouched = error(vector_env(task, "gymnasium", obs).step(action).next_obs, following[:, : ROBOTS[task].obs_dim])
    assert np.median(untouched) > 1e-3, "without the patches the replay is off"


def test_d4rl_dynamics_follow_a_hopper_episode_open_loop(data_dir):
    obs, action, reward, following = recording(data_dir / "gym_v2_mujoco_py" / "hopper-v2-return3590.hdf5")
    for dynamics, worst in (("d4rl", 1e-3), ("gymnasium", np.inf)):
        env = vector_env("hopper", dynamics, obs[:1])
        steps = [env.step(a[None]) for a in action[:300]]
        errors = error(np.concatenate([step.next_obs for step in steps]), following[:300])
        assert errors.max() < worst
        if dynamics == "d4rl":
            assert np.abs(np.concatenate([step.reward for step in steps]) - reward[:300]).max() < 1e-3
        else:
            assert errors.max() > 0.1


@pytest.mark.parametrize("task", ["hopper", "halfcheetah", "ant"])
def test_v4_recordings_replay_with_the_old_margins_and_integrator(data_dir, task):
    obs, action, _, following = sample(task, data_dir / "gym_v4_expert" / f"{task}-v4-expert.hdf5")
    model, frame_skip, _ = build_model(task, "gymnasium")
    model = copy.copy(model)
    restore_margins(model)
    advance = mean_velocity_rk4 if task == "ant" else mujoco.mj_step
    found = []
    for data, control in zip(placed(task, model, obs), action, strict=True):
        data.ctrl[:] = control
        advance(model, data, frame_skip)
        found.append(np.concatenate([data.qpos[ROBOTS[task].hidden :], data.qvel]))
    assert error(np.stack(found), following).max() < 1e-10


@pytest.mark.parametrize(("task", "density"), [("hopper", 1000), ("walker2d", 1000), ("ant", 5)])
def test_capsules_weigh_as_the_old_cylinders(task, density):
    exact, old = build_model(task, "gymnasium")[0], build_model(task, "d4rl")[0]
    for body in range(1, exact.nbody):
        masses = np.zeros(2)
        for geom in np.flatnonzero(exact.geom_bodyid == body):
            radius, half_length, _ = exact.geom_size[geom]
            if exact.geom_type[geom] == mujoco.mjtGeom.mjGEOM_SPHERE:
                masses += density * 4 / 3 * np.pi * radius**3
            else:
                lengths = np.array([2 * half_length + 4 / 3 * radius, 2 * half_length + radius])
                masses += density * np.pi * radius**2 * lengths
        np.testing.assert_allclose([exact.body_mass[body], old.body_mass[body]], masses, rtol=1e-9)


def test_total_mass_of_halfcheetah_stays_as_its_model_sets_it():
    exact, old = build_model("halfcheetah", "gymnasium")[0], build_model("halfcheetah", "d4rl")[0]
    np.testing.assert_allclose([exact.body_mass.sum(), old.body_mass.sum()], 14.0)
    assert np.abs(exact.body_mass - old.body_mass).max() > 0.01


def test_old_integrator_equals_the_new_one_without_rotations():
    """Hopper has hinges and slides only, for which every version's RK4 is the textbook's."""
    model, frame_skip, advance = build_model("hopper", "d4rl")
    assert advance is mujoco.mj_step
    rng = np.random.default_rng(0)
    new, old = mujoco.MjData(model), mujoco.MjData(model)
    new.qpos[1] = old.qpos[1] = 1.25
    for _ in range(20):
        new.ctrl[:] = old.ctrl[:] = rng.uniform(-1, 1, 3)
        mujoco.mj_step(model, new, frame_skip)
        mean_velocity_rk4(model, old, frame_skip)
        np.testing.assert_allclose(old.qpos, new.qpos, rtol=0, atol=1e-9)
        np.testing.assert_allclose(old.qvel, new.qvel, rtol=0, atol=1e-7)
    assert new.time == pytest.approx(old.time)


def test_old_integrator_is_second_order_on_rotations():
    """A spinning box without forces: halving the step divides the error by 4 instead of by 16."""

    def orientation(steps):
        xml = f"""<mujoco><option integrator="RK4" gravity="0 0 0" timestep="{0.4 / steps}"/><worldbody><body>
          <freejoint/><geom type="box" size=".1 .2 .4"/></body></worldbody></mujoco>"""
        model = mujoco.MjModel.from_xml_string(xml)
        data = mujoco.MjData(model)
        data.qvel[3:] = 3, 5, 1
        mean_velocity_rk4(model, data, steps)
        return data.qpos[3:].copy()

    exact = orientation(4000)
    coarse, fine = (np.abs(orientation(steps) - exact).max() for steps in (16, 32))
    assert coarse / fine == pytest.approx(4, rel=0.1)


def test_margins_that_differ_are_refused():
    xml = """<mujoco><worldbody><geom size="1" margin="0.1"/><body pos="0 0 3"><freejoint/><geom size="1"/></body>
      </worldbody></mujoco>"""
    with pytest.raises(ValueError, match="different margins"):
        restore_margins(mujoco.MjModel.from_xml_string(xml))
