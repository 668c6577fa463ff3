"""AntMaze: its model field by field, its maps, resets, goals, endings, saving, and its planner."""

import gymnasium
import mujoco
import numpy as np
import pytest

from cfdg_jax.envs.antmaze import GOAL_RADIUS, HORIZONS, TASKS, AntMazeVecEnv, build_model
from cfdg_jax.envs.dynamics import quiet_models
from cfdg_jax.envs.maze import maze
from cfdg_jax.envs.registry import make_env, spec_of
from cfdg_jax.errors import UserError
from cfdg_jax.types import Env

WALLS = {"antmaze-umaze": 18, "antmaze-medium": 38, "antmaze-large": 62}
CHANGED = {"actuator_gear", "actuator_acc0", "geom_solimp"}
"""Fields of the ant in which D4RL's file differs from Gymnasium's (its solref is MuJoCo's default); D4RL's motors have
gear 1 and a range of 30."""


@pytest.fixture(scope="module")
def gymnasium_ant():
    with quiet_models():
        env = gymnasium.make("Ant-v4").unwrapped
    yield env.model
    env.close()


def test_the_ant_is_gymnasiums_in_every_other_field(gymnasium_ant):
    model, _ = build_model("ant", "gymnasium")
    differ = set()
    for name in dir(model):
        ours, theirs = getattr(model, name), getattr(gymnasium_ant, name)
        if isinstance(ours, np.ndarray) and not (ours.shape == theirs.shape and np.array_equal(ours, theirs)):
            differ.add(name)
    assert differ == CHANGED
    assert gymnasium_ant.opt.integrator == model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4


@pytest.mark.parametrize("task", TASKS)
def test_fields_of_d4rls_files(task, gymnasium_ant):
    model, _ = build_model(task, "gymnasium")
    assert model.opt.timestep == 0.02
    assert (model.geom_solref == [0.02, 1.0]).all() and (model.geom_solimp == [0.8, 0.8, 0.01, 0.5, 2.0]).all()
    assert (model.geom_friction == [1.0, 0.5, 0.5]).all() and (model.geom_condim == 3).all()
    assert (model.geom_margin == 0.01).all()
    assert (model.actuator_gear[:, 0] * model.actuator_ctrlrange[:, 1] == 30.0).all()
    blocks = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_BOX)
    assert len(blocks) == WALLS[task] == model.ngeom - gymnasium_ant.ngeom
    assert (model.geom_size[blocks] == [2.0, 2.0, 1.0]).all() and (model.geom_pos[blocks, 2] == 1.0).all()
    assert (model.geom_conaffinity[blocks] == 1).all() and (model.geom_contype[blocks] == 1).all()
    np.testing.assert_array_equal(model.body_mass, gymnasium_ant.body_mass)
    np.testing.assert_array_equal(model.qpos0, gymnasium_ant.qpos0)


def test_walls_take_the_old_margins_too():
    model, _ = build_model("antmaze-large", "d4rl")
    factor = 0.5 if tuple(map(int, mujoco.__version__.split(".")[:2])) >= (3, 5) else 1.0
    assert (model.geom_margin == 0.01 * factor).all()


@pytest.mark.parametrize(("size", "goal"), [("umaze", (0.0, 8.0)), ("medium", (20.0, 20.0)), ("large", (32.0, 24.0))])
def test_evaluation_starts_at_the_origin_and_draws_goals_as_version_2_does(size, goal):
    env = make_env(f"antmaze-{size}", range(200))
    obs = env.reset()
    assert isinstance(env, Env) and obs.shape == (200, 29)
    assert np.abs(obs[:, :2]).max() <= 0.1 and np.abs(obs[:, 2] - 0.75).max() <= 0.1
    assert obs[:, 15:].std() == pytest.approx(0.1, rel=0.05)
    offset = env.goals - goal
    assert offset.min() >= 0.0 and offset.max() <= 1.5
    assert offset.mean() == pytest.approx(0.75, abs=0.05), "uniform over a unit plus uniform over half a unit"
    before = env.goals.copy()
    env.reset(np.arange(200) < 100)
    assert (env.goals[:100] != before[:100]).all() and (env.goals[100:] == before[100:]).all()


def test_only_the_goal_ends_an_episode_and_it_pays_one():
    env = AntMazeVecEnv("antmaze-umaze", [0, 1])
    obs = env.reset()
    fallen = obs.copy()
    fallen[:, 3:7] = [0.0, 1.0, 0.0, 0.0]
    env.place(fallen, goals=np.array([[0.0, 0.0], [20.0, 20.0]]))
    step = env.step(np.zeros((2, 8)))
    assert step.reward.tolist() == [1.0, 0.0] and step.terminal.tolist() == [True, False]
    assert step.success.tolist() == [True, False] and not step.truncated.any()
    env.goals[1] = step.next_obs[1, :2] + np.array([GOAL_RADIUS + 0.2, 0.0])
    assert not env.step(np.zeros((2, 8))).terminal[1]


@pytest.mark.parametrize("task", TASKS)
def test_time_limits(task):
    spec = spec_of(task)
    assert (spec.obs_dim, spec.act_dim, spec.reference) == (29, 8, (0.0, 1.0))
    assert spec.horizon == HORIZONS[task] == (700 if task.endswith("umaze") else 1000)
    env = make_env(task, [0])
    env.reset()
    state = env.get_state()
    env.set_state({**state, "elapsed": np.array([spec.horizon - 2])})
    assert [bool(env.step(np.zeros((1, 8))).truncated[0]) for _ in range(2)] == [False, True]


def test_threads_and_restored_states_give_the_same_bits():
    plan = np.random.default_rng(0).uniform(-1, 1, (8, 5, 8))
    loop, pool = (AntMazeVecEnv("antmaze-umaze", range(5), threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(loop.reset(), pool.reset())
    for action in plan[:4]:
        np.testing.assert_array_equal(loop.step(action).next_obs, pool.step(action).next_obs)
    pool.set_state(loop.get_state())
    np.testing.assert_array_equal(loop.goals, pool.goals)
    for action in plan[4:]:
        np.testing.assert_array_equal(loop.step(action).next_obs, pool.step(action).next_obs)
    np.testing.assert_array_equal(loop.reset(), pool.reset())
    with pytest.raises(UserError, match="antmaze-umaze under MuJoCo"):
        AntMazeVecEnv("antmaze-umaze", [0]).set_state(loop.get_state())


def test_walls_stop_the_ant():
    """Thrown along the corridor it goes on; thrown as fast at the wall, whose face is at y = -2, its legs stop it."""
    env = AntMazeVecEnv("antmaze-umaze", [0, 0])
    obs = env.reset()
    obs[:, :3], obs[:, 15:] = [[1.2, 0.0, 0.75], [0.0, -1.2, 0.75]], 0.0
    obs[0, 15], obs[1, 16] = 8.0, -8.0
    env.place(obs)
    places = np.stack([env.step(np.zeros((2, 8))).next_obs[:, :2] for _ in range(20)])
    assert places[:, 1, 1].min() > -1.5
    assert places[:, 0, 0].max() > 1.2 + 0.6


@pytest.mark.parametrize("size", ["umaze", "medium", "large"])
def test_following_waypoints_reaches_every_goal_through_free_cells(size):
    layout = maze(size)
    assert layout.cell_at(layout.centre(layout.goal) + 1.5) == layout.goal
    for start in layout.free:
        place, goal = layout.centre(start), layout.centre(layout.goal) + 0.3
        for _ in range(3 * len(layout.free)):
            step = layout.waypoint(place, goal)
            assert np.abs(step - place).sum() <= 4.0 + 0.7 + 2.0
            place = step
            assert layout.cell_at(place) in layout.free
            if np.array_equal(place, goal):
                break
        assert np.array_equal(place, goal)


def test_a_place_over_a_wall_is_led_back():
    layout = maze("umaze")
    assert np.abs(layout.waypoint(np.array([-2.3, 0.0]), layout.centre(layout.goal)) - [2.0, 0.0]).max() < 1e-9
