"""The point mass: its physics, its rewards and its controller, and the host's view of a JAX environment."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfdg_jax.envs import toy
from cfdg_jax.envs.host import HostEnv
from cfdg_jax.envs.registry import make_env
from cfdg_jax.errors import UserError
from cfdg_jax.types import Env, PureEnv

SPARSE, DENSE = toy.make_toy("sparse"), toy.make_toy("dense")


def at(x, y, vx=0.0, vy=0.0, elapsed=0):
    return toy.ToyState(jnp.array([x, y]), jnp.array([vx, vy]), jnp.array(elapsed, jnp.int32))


def play(env, state, plan):
    """All states and steps `[T, ...]` of thrusts `[T, 2]`."""

    def one(state, action):
        state, step = env.step(state, action)
        return state, (state, step)

    return jax.jit(lambda state, plan: jax.lax.scan(one, state, plan)[1])(state, jnp.asarray(plan, jnp.float32))


@jax.jit
def episodes(noise):
    """200 episodes of the controller up to their end: arrived, sparse and dense return, length, `[200]` each."""

    def one(key):
        start, acting = jax.random.split(key)

        def go(carry, key):
            state, running = carry
            action = toy.behaviour(DENSE.observe(state), key, noise)
            sparse = SPARSE.step(state, action)[1].reward
            state, step = DENSE.step(state, action)
            return (state, running & ~step.terminal), (
                running & step.success,
                running * sparse,
                running * step.reward,
                running,
            )

        begin = (DENSE.reset(start), jnp.array(True))
        _, (success, sparse, dense, running) = jax.lax.scan(go, begin, jax.random.split(acting, toy.HORIZON))
        return success.any(), sparse.sum(), dense.sum(), running.sum()

    return jax.vmap(one)(jax.random.split(jax.random.key(0), 200))


def test_wall_blocks_the_straight_way():
    states, steps = play(SPARSE, at(-0.6, -0.6), [[1.0, 0.0]] * 60)
    assert states.position[:, 0].max() == -np.float32(toy.WALL_HALF_WIDTH)
    assert states.velocity[-1, 0] < 0.3, "the wall takes the speed"
    assert not steps.terminal.any()


def test_nothing_enters_the_wall_or_leaves_the_square():
    plan = np.repeat(np.random.default_rng(0).choice([-1.0, 1.0], (64, 40, 2)), 10, axis=1)
    start = jax.vmap(lambda key: SPARSE.reset(key))(jax.random.split(jax.random.key(1), 64))
    position = np.asarray(jax.vmap(lambda s, p: play(SPARSE, s, p)[0].position)(start, jnp.asarray(plan)))
    x, y = position[..., 0], position[..., 1]
    assert np.abs(position).max() <= 1.0
    inside = (np.abs(x) < toy.WALL_HALF_WIDTH - 1e-6) & (y < toy.WALL_TOP - 1e-6)
    assert not inside.any()
    low = (y[:, :-1] < toy.WALL_TOP) & (y[:, 1:] < toy.WALL_TOP)
    assert not (low & (x[:, :-1] * x[:, 1:] < 0)).any(), "sides change only above the wall"
    assert (x[:, 0] < 0).all() and (x > 0.2).any(), "some do get around"


def test_full_thrust_settles_at_speed_one_and_is_clipped():
    states, _ = play(SPARSE, at(-0.9, 0.9), [[9.0, 0.0]] * 15)
    reference, _ = play(SPARSE, at(-0.9, 0.9), [[1.0, 0.0]] * 15)
    np.testing.assert_array_equal(states.velocity, reference.velocity)
    np.testing.assert_allclose(states.velocity[:, 0], 1 - 0.8 ** np.arange(1, 16), rtol=1e-5)


def test_goal_is_terminal_and_a_success():
    states, steps = play(SPARSE, at(0.6, -0.25, vy=-1.0), [[0.0, -1.0]] * 4)
    near = np.linalg.norm(np.asarray(states.position) - toy.GOAL, axis=1) <= toy.GOAL_RADIUS
    assert near.any() and not near[0]
    np.testing.assert_array_equal(steps.terminal, near)
    np.testing.assert_array_equal(steps.success, near)
    np.testing.assert_array_equal(steps.reward, near.astype(np.float32))
    assert not steps.truncated.any()


def test_horizon_truncates():
    states, steps = play(DENSE, at(-0.6, -0.6), np.zeros((toy.HORIZON + 1, 2)))
    np.testing.assert_array_equal(steps.truncated, np.arange(1, toy.HORIZON + 2) >= toy.HORIZON)
    assert not steps.terminal.any() and states.elapsed[-1] == toy.HORIZON + 1, "no reset by itself"


def test_dense_reward_adds_up_to_the_way_gained():
    plan = np.random.default_rng(3).uniform(-1, 1, (60, 2))
    start = at(-0.6, -0.6)
    states, steps = play(DENSE, start, plan)
    gained = toy.way_length(start.position) - toy.way_length(states.position[-1])
    np.testing.assert_allclose(steps.reward.sum(), gained + steps.success.sum(), atol=1e-5)


def test_way_length_is_the_shortest_polyline_around_the_wall():
    """Against brute force over corners, a segment being free if none of its points lies inside the wall."""
    corners = [np.array([-toy.WALL_HALF_WIDTH, toy.WALL_TOP]), np.array([toy.WALL_HALF_WIDTH, toy.WALL_TOP])]
    goal, share = np.array(toy.GOAL), np.linspace(0, 1, 2001)[:, None]

    def free(a, b):
        points = a + share * (b - a)
        return not ((np.abs(points[:, 0]) < toy.WALL_HALF_WIDTH - 1e-9) & (points[:, 1] < toy.WALL_TOP - 1e-9)).any()

    def shortest(start):
        lengths = []
        for between in ([], corners[1:], corners):
            line = [start, *between, goal]
            if all(free(a, b) for a, b in itertools.pairwise(line)):
                lengths.append(sum(np.linalg.norm(b - a) for a, b in itertools.pairwise(line)))
        return min(lengths)

    points = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    outside = points[(np.abs(points[:, 0]) >= toy.WALL_HALF_WIDTH) | (points[:, 1] >= toy.WALL_TOP)]
    found = jax.vmap(toy.way_length)(jnp.asarray(outside, jnp.float32))
    np.testing.assert_allclose(found, [shortest(point) for point in outside], atol=2e-3)


def test_controller_gets_worse_with_noise():
    arrived, sparse, dense, length = episodes(0.0)
    assert arrived.all() and length.mean() < 40
    np.testing.assert_array_equal(sparse, 1.0)
    rates = [float(episodes(noise)[0].mean()) for noise in (1.0, 2.0, 5.0)]
    assert rates[0] > 0.95 and 0.3 < rates[1] < 0.8 and rates[2] < 0.1
    assert dense.mean() > episodes(2.0)[2].mean() + 0.3


def test_host_env_equals_the_pure_env():
    seeds = [4, 2**40 + 1]
    env = HostEnv(DENSE, seeds)
    assert isinstance(env, Env) and isinstance(env.pure, PureEnv)
    obs = env.reset()
    plan = np.random.default_rng(0).uniform(-1, 1, (25, 2, 2)).astype(np.float32)
    words = jnp.array([[0, 4], [2**8, 1]], jnp.uint32)
    keys = jax.random.wrap_key_data(words, impl="threefry2x32")
    np.testing.assert_array_equal(jax.random.key_data(keys[0]), jax.random.key_data(jax.random.key(4)))
    for i in range(2):
        state = DENSE.reset(jax.random.fold_in(keys[i], 0))
        np.testing.assert_allclose(obs[i], DENSE.observe(state), atol=1e-6)
    results = [env.step(action) for action in plan]
    for i in range(2):
        state = DENSE.reset(jax.random.fold_in(keys[i], 0))
        states, steps = play(DENSE, state, plan[:, i])
        np.testing.assert_allclose([r.next_obs[i] for r in results], jax.vmap(DENSE.observe)(states), atol=1e-5)
        np.testing.assert_allclose([r.reward[i] for r in results], steps.reward, atol=1e-5)
        np.testing.assert_array_equal([r.truncated[i] for r in results], steps.truncated)
    again = env.reset(np.array([False, True]))
    np.testing.assert_array_equal(again[0], results[-1].next_obs[0])
    np.testing.assert_allclose(again[1], DENSE.observe(DENSE.reset(jax.random.fold_in(keys[1], 1))), atol=1e-6)


def test_host_env_restores_bit_for_bit():
    plan = np.random.default_rng(0).uniform(-1, 1, (20, 2, 2))
    env = make_env("toy-sparse", [1, 2])
    env.reset()
    for action in plan:
        env.step(action)
    env.reset(np.array([True, False]))
    saved = env.get_state()
    assert all(type(value) is np.ndarray for value in saved.values())
    expected = [env.step(action).next_obs for action in plan] + [env.reset()]
    other = make_env("toy-sparse", [1, 2])
    other.set_state(saved)
    np.testing.assert_array_equal([other.step(action).next_obs for action in plan] + [other.reset()], expected)
    with pytest.raises(UserError, match="environment state: holds episodes of shape"):
        make_env("toy-sparse", [1]).set_state(saved)


def test_host_env_among_many_is_the_single_one_of_its_seed():
    plan = np.random.default_rng(0).uniform(-1, 1, (15, 3, 2))
    many, single = make_env("toy-dense", [7, 8, 9]), make_env("toy-dense", [8])
    np.testing.assert_array_equal(many.reset()[1:2], single.reset())
    for action in plan:
        np.testing.assert_allclose(many.step(action).next_obs[1], single.step(action[1:2]).next_obs[0], atol=1e-6)
