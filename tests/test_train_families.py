"""The main job, offline to online with generated rows, on one task of each family."""

import json

import numpy as np
import pytest
from train_helpers import TINY

import cfdg_jax
from cfdg_jax.data import behaviours
from cfdg_jax.data.collect import collect
from cfdg_jax.data.hdf5 import write_hdf5
from cfdg_jax.data.names import RECIPES
from cfdg_jax.presets import make_config

pytestmark = pytest.mark.usefixtures("generators_are_shallow")

GENERATOR = {"augment.steps": 20, "augment.batch": 16, "augment.sampler_steps": 3}
SMALL = {"agent.hidden": (16, 16), "seeds": 1, "online.steps": 80, "evaluate.episodes": 1} | GENERATOR


def recorded(folder, name):
    """A few rows of uniform actions, in the environment of a `local:` recipe."""
    recipe = RECIPES[name]
    env = behaviours.environment(recipe, [0, 1], "d4rl", 1)
    policy = lambda obs, rng: rng.uniform(-1, 1, (len(obs), env.spec.act_dim))
    path = folder / f"{name}.hdf5"
    write_hdf5(path, collect(env, policy, 1500, np.random.default_rng(0)), {"task": recipe.task, "dynamics": "d4rl"})
    return str(path)


def run(dataset, folder):
    config = make_config(dataset, augment="cfdg", preset="smoke", **(TINY | SMALL))
    return cfdg_jax.train(config, folder, progress=False)


def check(made, task, normalised=True):
    assert made.summary["status"] == "done" and made.config.env.task in ("", task)
    last = json.loads((made.folder / "evaluations.jsonl").read_text().splitlines()[-1])
    assert last["phase"] == "online" and np.isfinite(last["return"]).all()
    assert (last["normalized_score"] is not None) == normalised


@pytest.mark.parametrize("name", ["halfcheetah-medium-v0", "antmaze-umaze-play-v0"])
def test_offline_to_online(tmp_path, name):
    check(run(recorded(tmp_path, name), tmp_path / "run"), RECIPES[name].task)


def test_offline_to_online_on_d4rls_door(tmp_path, data_dir, monkeypatch):
    pytest.importorskip("gymnasium_robotics", reason="the extra adroit is not installed")
    monkeypatch.setenv("CFDG_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("CFDG_OFFLINE", raising=False)
    monkeypatch.setenv("CFDG_MIRRORS", str(data_dir / "d4rl"))
    check(run("d4rl:door-human-v1", tmp_path / "run"), "door")
