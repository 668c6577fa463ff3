"""What does not grow while a run goes on: compiled programs, memory, files."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_helpers import compilations, hopper_config, lines, toy_config

import cfdg_jax
from cfdg_jax.envs.toy import make_toy
from cfdg_jax.training.build import load_program
from cfdg_jax.training.drivers import scan_steps
from cfdg_jax.training.learn import no_meters
from cfdg_jax.training.prepare import init
from cfdg_jax.training.progress import Progress
from cfdg_jax.training.session import Session
from cfdg_jax.training.stopwatch import Stopwatch

pytestmark = pytest.mark.usefixtures("generators_are_shallow")


@pytest.fixture
def compiled(monkeypatch):
    """The number of programs compiled or loaded so far, at each checkpoint of a run."""
    seen, checkpoint = [], Session.checkpoint

    def note(self):
        checkpoint(self)
        if self.phase == "online":
            seen.append((self.step, len(found)))

    monkeypatch.setattr(Session, "checkpoint", note)
    with compilations() as found:
        yield seen


@pytest.mark.parametrize(
    "config",
    [
        toy_config(online__steps=210, online__capacity=400, refresh__every=30, offline__steps=20, seeds=1),
        hopper_config(online__steps=240, online__capacity=400, seeds=1),
    ],
    ids=["toy", "hopper"],
)
def test_nothing_is_compiled_after_the_first_cycle(config, compiled, tmp_path):
    """Neither an evaluation, nor a refresh, nor a checkpoint of a fuller ring makes new programs."""
    cfdg_jax.train(config, tmp_path / "run", progress=False)
    after_two_refreshes = [number for step, number in compiled if 120 <= step < config.online.steps]
    assert compiled[0][1] > 0, "nothing was counted"
    assert len(after_two_refreshes) >= 3 and len(set(after_two_refreshes)) == 1, compiled


def test_a_chunk_of_steps_in_jax_copies_no_ring():
    """The rings of two seeds are 112 MB; updates read them, and returns are written into them."""
    program = load_program(toy_config("none", online__capacity=1_000_000), Progress(False), Stopwatch())
    env, state = make_toy("dense"), jax.eval_shape(lambda: init(program, "online"))
    begun = lambda keys: (jax.vmap(env.reset)(keys), jnp.zeros((2, 2)), *(jnp.zeros(2) for _ in range(3)))
    arguments = (state, no_meters(program, "online"), jax.eval_shape(begun, state.key), np.int32(0))
    how = {"env": env, "steps": 2, "counts": program.mix.counts({}, 1), "random": False}
    lowered = scan_steps.of(program).lower(*arguments, program.offline_rows, **how)
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 10e6


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU; run with JAX_PLATFORMS=cuda")
def test_deterministic_runs_of_a_gpu_are_equal(tmp_path):
    """Kernels are chosen when JAX starts, so each run is a process of its own."""
    flags = ["--dataset", "local:toy-dense-medium-replay-v0", "--preset", "smoke", "--quiet", "--deterministic"]
    for name in ("one", "other"):
        command = [sys.executable, "-m", "cfdg_jax", "train", *flags, "--out", str(tmp_path / name)]
        subprocess.run(command, check=True)
    for log in ("metrics.jsonl", "evaluations.jsonl"):
        assert lines(tmp_path / "one", log) == lines(tmp_path / "other", log)
