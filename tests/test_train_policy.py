"""What is done with a trained policy: scores, a video, plain arrays that NumPy acts with."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from train_helpers import hopper_config

import cfdg_jax
from cfdg_jax import cli
from cfdg_jax.agents.registry import AGENTS, make_agent
from cfdg_jax.envs.camera import Camera
from cfdg_jax.envs.registry import make_env
from cfdg_jax.errors import UserError
from cfdg_jax.training import export, video
from cfdg_jax.training.results import Run
from cfdg_jax.types import Spec

pytestmark = pytest.mark.usefixtures("generators_are_shallow", "programs_are_shared")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy") / "run"
    config = hopper_config(online__steps=40, online__start_steps=40, evaluate__online_every=40, first_seed=7)
    return cfdg_jax.train(config, folder, progress=False)


@pytest.fixture
def renders():
    env = make_env("hopper", [0])
    try:
        Camera(env, "--video").close()
    except UserError as error:
        pytest.skip(f"no pictures here: {error}")
    finally:
        env.close()


def test_evaluate_prints_a_line_for_each_seed_and_one_for_all(run, capsys):
    assert cli.main(["evaluate", str(run.folder), "--episodes", "3"]) == 0
    head, first, second, every = (line.split() for line in capsys.readouterr().out.splitlines())
    scores = cfdg_jax.evaluate(run, episodes=3)
    assert head[:3] == ["seed", "episodes", "return"]
    assert [row[0] for row in (first, second, every)] == ["7", "8", "all"] and every[1] == "6"
    assert float(second[2]) == pytest.approx(scores["return"][1].mean(), abs=0.06)
    assert float(every[4]) == pytest.approx(scores["normalized_score"].mean(), abs=0.06)


def test_an_exported_policy_acts_as_the_run_does(run, tmp_path, capsys):
    path = tmp_path / "policy.npz"
    assert cli.main(["export", str(run.folder), "--out", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"written: {path}")
    policy = dict(np.load(path))
    assert policy["seeds"].tolist() == [7, 8]
    obs = np.random.default_rng(3).normal(size=(2, 5, 11)).astype(np.float32)
    expected = run.policy()(obs)
    for seed in range(2):
        np.testing.assert_allclose(export.act(policy, obs[seed], seed), expected[seed], atol=1e-5)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "variant"), [("iql", "authors"), ("awac", "corl"), ("td3", "authors"), ("sac", "authors")]
)
def test_every_kind_of_policy_of_one_perceptron_can_be_exported(name, variant):
    """A Gaussian with a squashed mean, with a clipped one, a deterministic policy, a squashed Gaussian."""
    config = AGENTS[name].config(variant=variant)
    small = {field: (8, 8) for field in ("hidden", "critic_hidden") if hasattr(config, field)}
    agent = make_agent(dataclasses.replace(config, **small), Spec(5, 2, 100))
    state = agent.init(jax.random.key(1))
    obs = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    moments = {"obs_mean": np.zeros(5), "obs_scale": np.ones(5)}
    stacked = {key: value[None] for key, value in export.layers(state.policy, 2).items()}
    own = np.asarray(agent.act(state, obs, jax.random.key(0), False))
    errors = [np.abs(export.act(stacked | moments | {"squash": s}, obs) - own).max() for s in export.SQUASHES]
    assert min(errors) < export.TOLERANCE


def test_what_plain_arrays_cannot_do_is_refused(run, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--out: is .*policy\.pt; must end with \.npz"):
        export.export(run, tmp_path / "policy.pt")
    program, agent, record = run.acting()
    other = jax.tree.map(lambda leaf: leaf + 1 if leaf.ndim > 1 else leaf, agent.policy)
    for changed in ((), agent._replace(policy=other)):  # two policies, as of PEX; one that acts otherwise
        monkeypatch.setattr(Run, "acting", lambda self, changed=changed: (program, changed, record))
        monkeypatch.setattr(export, "actor", lambda *acting: lambda obs: np.zeros((2, 64, 3)))
        with pytest.raises(UserError, match="is no single perceptron, so plain arrays cannot act as it does"):
            export.export(run, tmp_path / "policy.npz")
    assert list(tmp_path.iterdir()) == []


def test_seeds_that_diverged_are_told_from_policies_that_cannot_be_exported(run, tmp_path, monkeypatch, capsys):
    program, agent, record = run.acting()
    obs = np.random.default_rng(0).normal(size=(5, 11)).astype(np.float32)
    path = tmp_path / "policy.npz"
    lost = lambda which: jax.tree.map(lambda leaf: leaf.at[which].set(np.nan), agent.policy)
    monkeypatch.setattr(Run, "acting", lambda self: (program, agent._replace(policy=lost(0)), record))
    policy = dict(np.load(export.export(run, path)))
    assert capsys.readouterr().err == f"warning: seed 7 diverged; its policy in {path} is not finite\n"
    assert np.isnan(export.act(policy, obs, 0)).all() and np.isfinite(export.act(policy, obs, 1)).all()
    monkeypatch.setattr(Run, "acting", lambda self: (program, agent._replace(policy=lost(slice(None))), record))
    with pytest.raises(UserError, match="all its seeds diverged: no policy is finite; look in its metrics"):
        export.export(run, path)


def test_an_mp4_is_written_without_a_fork_of_this_process(tmp_path, recwarn):
    pytest.importorskip("imageio_ffmpeg")
    video._write(tmp_path / "run.mp4", [np.zeros((32, 32, 3), np.uint8)] * 3)
    assert (tmp_path / "run.mp4").stat().st_size > 0
    assert not [each for each in recwarn if "fork" in str(each.message)]


def test_a_video_has_a_frame_for_every_few_steps(run, tmp_path, renders):
    from PIL import Image

    path = video.film(run, tmp_path / "run.webp")
    with Image.open(path) as picture:
        assert picture.size == (480, 360) and picture.n_frames >= 2
        first = np.asarray(picture.convert("RGB"))
        picture.seek(picture.n_frames - 1)
        assert np.abs(first.astype(int) - np.asarray(picture.convert("RGB"))).max() > 50, "it moves"


def test_a_video_that_cannot_be_made_is_refused_first(run, tmp_path, monkeypatch, capsys):
    for name, said in (("run.avi", "must end with"), ("no/run.gif", "is no folder")):
        assert cli.main(["evaluate", str(run.folder), "--video", str(tmp_path / name)]) == 2
        assert said in capsys.readouterr().err
    monkeypatch.setattr("mujoco.Renderer", lambda *args: (_ for _ in ()).throw(RuntimeError("no GL")))
    assert cli.main(["evaluate", str(run.folder), "--video", str(tmp_path / "run.gif")]) == 2
    said = capsys.readouterr()
    assert re.search(r"nothing renders here \(RuntimeError: no GL\); install EGL or OSMesa", said.err)
    assert said.out == "", "before anything is evaluated"


def test_an_environment_without_a_model_has_no_picture():
    with pytest.raises(UserError, match="is no MuJoCo model"):
        Camera(make_env("toy-dense", [0]), "--video")
