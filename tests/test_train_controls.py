"""Controls of a comparison: what they change of generated rows, what they leave, and where they are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_helpers import hopper_config, lines, toy_config

import cfdg_jax
from cfdg_jax.envs.registry import make_env
from cfdg_jax.errors import UserError
from cfdg_jax.fields import override
from cfdg_jax.training.build import load_program
from cfdg_jax.training.controls import controlled
from cfdg_jax.training.program import keys_of
from cfdg_jax.training.progress import Progress
from cfdg_jax.training.stopwatch import Stopwatch
from cfdg_jax.types import Source

pytestmark = pytest.mark.usefixtures("generators_are_shallow", "programs_are_shared")

ONLINE, OFFLINE = str(int(Source.SYNTHETIC_ONLINE)), str(int(Source.SYNTHETIC_OFFLINE))


def program_of(config):
    return load_program(config, Progress(False), Stopwatch())


def with_generator(config, control):
    generator = toy_config(augment="synther").augment
    return override(dataclasses.replace(config, augment=generator), {"refresh.control": control})


def test_shuffled_rows_keep_their_numbers_and_lose_their_label():
    program = program_of(toy_config(refresh__control="shuffled"))
    width, lengths = program.spec.layout.width, {ONLINE: 400, OFFLINE: 100}
    rows = {name: jnp.full((2, count, width), float(name)) for name, count in lengths.items()}
    rows = {name: made.at[..., 0].set(jnp.arange(made.shape[1]) + 1_000 * float(name)) for name, made in rows.items()}
    out = controlled(program, keys_of(program), rows)
    assert {name: made.shape[1] for name, made in out.items()} == lengths
    for seed in range(2):
        before, after = (np.concatenate([np.asarray(each[name][seed, :, 0]) for name in rows]) for each in (rows, out))
        np.testing.assert_array_equal(np.sort(before), np.sort(after))
    for name, made in out.items():
        assert (np.asarray(made[..., program.spec.layout.source]) == float(name)).all()
        from_online = np.asarray(made[..., 1]) == float(ONLINE)
        assert from_online.mean() == pytest.approx(0.8, abs=0.1)
    assert not np.array_equal(out[ONLINE][0], out[ONLINE][1]), "each seed has an order of its own"


def test_oracle_rows_are_what_the_simulator_says():
    program = program_of(with_generator(hopper_config(), "oracle"))
    layout, rng = program.spec.layout, np.random.default_rng(0)
    env = make_env("hopper", range(4), "gymnasium")
    obs, seen = env.reset(), []
    for _ in range(60):
        action = rng.uniform(-1, 1, (4, 3))
        result = env.step(action)
        seen.append(layout.pack(obs, action, result.reward, result.next_obs, result.terminal, -np.inf, 3.0, xp=np))
        ends = result.terminal | result.truncated
        obs = np.where(ends[:, None], env.reset(ends), result.next_obs)
    env.close()
    true = np.concatenate(seen)
    true = true[np.abs(true[:, layout.next_obs][:, 5:]).max(axis=1) < 9.9]  # no velocity was clipped
    assert true[:, layout.terminal].any()
    wrong = true.copy()
    wrong[:, layout.reward], wrong[:, layout.next_obs], wrong[:, layout.terminal] = 7.0, 0.0, 1.0
    out = np.asarray(controlled(program, keys_of(program), {ONLINE: jnp.asarray(wrong)[None]})[ONLINE][0])
    close = np.abs(out - true)[:, : layout.mc_return].max(axis=1) < 1e-2  # contacts start cold
    assert close.mean() > 0.9
    np.testing.assert_array_equal(out[:, : layout.reward], true[:, : layout.reward])
    np.testing.assert_array_equal(out[:, layout.mc_return :], true[:, layout.mc_return :])


def test_a_run_with_shuffled_labels_differs_from_one_without_after_the_refresh(tmp_path):
    runs = {}
    for control in ("none", "shuffled"):
        config = toy_config(refresh__control=control, seeds=1, offline__steps=20, evaluate__episodes=1)
        runs[control] = cfdg_jax.train(config, tmp_path / control, progress=False)
    one, other = (lines(run.folder, "metrics.jsonl") for run in runs.values())
    online = lambda log: [line for line in log if line["phase"] == "online"]
    assert online(one)[1] == online(other)[1] and online(one)[-1]["q"] != online(other)[-1]["q"]
    (_, plain), (_, mixed) = (run.restore() for run in runs.values())
    held = lambda saved: np.concatenate(
        [np.asarray(b.rows)[0, : int(b.size), 0] for b in saved.state.synthetic.values()]
    )
    np.testing.assert_array_equal(np.sort(held(plain)), np.sort(held(mixed)))
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), plain.state.generator, mixed.state.generator))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            lambda: toy_config(refresh__control="oracle"),
            "is oracle, but toy-dense cannot be put where an observation says",
        ),
        (lambda: toy_config("none", refresh__control="shuffled"), "is shuffled, but no row is generated; use none"),
        (lambda: toy_config("synther", refresh__control="shuffled"), "but all generated rows have one label"),
    ],
)
def test_controls_that_cannot_be_are_refused(config, message):
    with pytest.raises(UserError, match=r"refresh\.control: .*" + message):
        program_of(config())
