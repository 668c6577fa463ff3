"""What goes wrong around a run: generators that diverge, simulators that cannot be saved, odd shells and places."""

import dataclasses
import errno
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from train_helpers import TINY, assert_same_run, flip, lines, stopped_in, toy_config

import cfdg_jax
from cfdg_jax import cli, process
from cfdg_jax.config import OnlineConfig, get_path
from cfdg_jax.data import commands
from cfdg_jax.errors import UserError
from cfdg_jax.fields import from_dict, to_dict
from cfdg_jax.training import checkpoint, generate, logging, refresh, store
from cfdg_jax.training.progress import Interrupted
from cfdg_jax.training.run import default_folder
from cfdg_jax.types import Source

pytestmark = pytest.mark.usefixtures("generators_are_shallow", "programs_are_shared")

ROOT = pathlib.Path(__file__).resolve().parents[1]
FEW = {"offline__steps": 20, "evaluate__episodes": 1, "evaluate__offline_every": 20, "evaluate__online_every": 60}

# -- generators that diverge -------------------------------------------------------------------------------------------


def test_a_seed_whose_generator_diverges_keeps_its_old_rows_and_learns_on(tmp_path, monkeypatch, capsys):
    """The generator of the first of two seeds breaks at the second refresh; the other seed is untouched."""
    config = toy_config(refresh__every=40, **FEW)
    whole = cfdg_jax.train(config, tmp_path / "whole", progress=False)
    made = []

    def break_first(program, generator, keys, source, rows):
        new, metrics = generate.generate(program, generator, keys, source, rows)
        made.append(source)
        return (new.at[0].set(jnp.nan) if len(made) > 3 else new), metrics  # a refresh is three chunks

    monkeypatch.setattr(refresh, "generate", break_first)
    broken = cfdg_jax.train(config, tmp_path / "broken", progress=False)
    assert (
        "seed 0: generated rows are not finite (refresh, step 80); it keeps the rows it had" in capsys.readouterr().err
    )
    assert broken.summary["failed_seeds"] == {}
    finite = [line["finite"] for line in lines(broken.folder, "metrics.jsonl") if line["phase"] == "refresh"]
    assert finite == [[1.0, 1.0], [0.0, 1.0]]
    (_, one), (_, other) = whole.restore(), broken.restore()
    for source, buffer in other.state.synthetic.items():
        assert np.isfinite(np.asarray(buffer.rows)[..., :-2]).all()
        np.testing.assert_array_equal(buffer.rows[1], one.state.synthetic[source].rows[1])
        assert not np.array_equal(buffer.rows[0], one.state.synthetic[source].rows[0])


def test_at_a_first_refresh_real_rows_take_the_place_of_rows_that_are_not_finite(tmp_path, monkeypatch, capsys):
    plain = generate.generate
    bad = lambda *args: (lambda new, metrics: (jnp.full_like(new, jnp.nan), metrics))(*plain(*args))
    monkeypatch.setattr(refresh, "generate", bad)
    run = cfdg_jax.train(toy_config(seeds=1, augment__pretrain_steps=20, **FEW), tmp_path / "run", progress=False)
    assert run.summary["failed_seeds"] == {} and "it keeps the rows it had" in capsys.readouterr().err
    program, saved = run.restore()
    layout = program.spec.layout
    offline = np.asarray(program.offline_rows)[:, : layout.mc_return]
    for source, buffer in saved.state.synthetic.items():
        rows = np.asarray(buffer.rows[0])[: int(buffer.size)]
        assert (rows[:, layout.source] == source).all() and np.isneginf(rows[:, layout.mc_return]).all()
        known = (rows[:, None, : layout.mc_return] == offline[None]).all(axis=2).any(axis=1)
        assert known.all() == (source == Source.SYNTHETIC_OFFLINE)


def test_a_bad_kept_refresh_is_made_again_to_the_same_numbers(tmp_path, monkeypatch, capsys):
    whole = cfdg_jax.train(toy_config(**FEW), tmp_path / "whole", progress=False)
    save = checkpoint.Kept.save

    def save_and_interrupt(self, tree, now=False):
        save(self, tree, True)
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Kept, "save", save_and_interrupt)
        with pytest.raises(Interrupted):
            cfdg_jax.train(whole.config, tmp_path / "run", progress=False)
    (kept,) = (tmp_path / "run" / "checkpoints").glob("refresh-*")
    flip(kept / store.ARRAYS)
    assert_same_run(whole, cfdg_jax.train(resume=tmp_path / "run", progress=False))
    assert "that work is done again" in capsys.readouterr().err


# -- schedules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "updates"),
    [
        ({"steps": 100, "start_steps": 30, "utd": 2}, 140),
        ({"steps": 100, "start_steps": 100}, 0),
        ({"steps": 100_000, "start_steps": 2_000, "update_every": 1_000, "utd": 1}, 99_000),
        ({"steps": 120, "start_steps": 40, "update_every": 30, "utd": 2}, 180),
        ({"steps": 100, "start_steps": 0, "update_every": 30}, 90),
    ],
)
def test_the_agent_is_told_as_many_updates_as_are_made(fields, updates):
    online = OnlineConfig(**fields)
    every, made = online.update_every, 0
    for t in range(1, online.steps + 1):  # of `improve`
        if every == 1:
            made += online.utd * (t - 1 >= online.start_steps)
        elif t % every == 0 and t >= online.start_steps:
            made += every * online.utd
    assert online.updates == made == updates


# -- environments that cannot be saved ---------------------------------------------------------------------------------


class WithLambda(gymnasium.Env):
    """Holds what pickle refuses, as many environments do."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self):
        self.shaping = lambda x: -x * x

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.normal()
        return np.array([self.x, 1.0, self.x**2]), {}

    def step(self, action):
        self.x = 0.9 * self.x + 0.1 * float(action[0])
        return np.array([self.x, 1.0, self.x**2]), self.shaping(self.x), False, False, {}


gymnasium.register("WithLambda-v0", entry_point=WithLambda, max_episode_steps=20)


def test_an_environment_that_cannot_be_saved_runs_and_says_what_is_missing(tmp_path, monkeypatch, capsys):
    fields = TINY | {"env.task": "gym:WithLambda-v0", "offline.steps": 0, "online.steps": 60, "seeds": 1}
    config = cfdg_jax.make_config("", "sac", preset="smoke", **fields)
    with stopped_in("online", 40, monkeypatch), pytest.raises(Interrupted):
        cfdg_jax.train(config, tmp_path / "run", progress=False)
    assert "an interrupted online phase of this run cannot be resumed" in capsys.readouterr().err
    with pytest.raises(UserError, match="an online phase that has begun cannot be resumed"):
        cfdg_jax.train(resume=tmp_path / "run", progress=False)
    done = cfdg_jax.train(config, tmp_path / "done", progress=False)
    assert done.summary["status"] == "done"
    assert cfdg_jax.train(resume=done.folder, progress=False).summary["status"] == "done"


# -- values, names, places ---------------------------------------------------------------------------------------------


def test_numbers_of_numpy_are_numbers(tmp_path):
    values = {"agent.learning_rate": np.logspace(-4, -3, 3)[1], "seeds": np.int64(1), "offline.steps": np.float64(20)}
    config = toy_config("none", "td3bc", online__steps=0, evaluate__episodes=1)

    agent = dataclasses.replace(config.agent, learning_rate=values["agent.learning_rate"])
    odd = dataclasses.replace(
        config, agent=agent, seeds=values["seeds"], offline=dataclasses.replace(config.offline, steps=np.int32(20))
    )
    run = cfdg_jax.train(odd, tmp_path / "run", progress=False)
    assert type(run.config.agent.learning_rate) is float and type(run.config.seeds) is int
    assert get_path(run.config, "agent.learning_rate") == values["agent.learning_rate"]
    assert to_dict(cfdg_jax.load_run(run.folder).config) == to_dict(run.config)


@pytest.mark.parametrize("dataset", ["../toy.hdf5", "/".join(["deep_folder_of_a_group"] * 20) + "/x.hdf5", "…" * 99])
def test_default_folders_are_visible_and_short(dataset):

    name = default_folder(dataclasses.replace(toy_config(), dataset=dataset)).name
    assert not name.startswith((".", "_", "-")) and len(name.encode()) < 200
    assert "hdf5" in name or "…" in dataset


def test_double_precision_is_one_line(tmp_path):
    with jax.enable_x64(True), pytest.raises(UserError, match="JAX_ENABLE_X64: is set"):
        cfdg_jax.train(toy_config(), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [
        (errno.EACCES, 2, "error: /some/file: Permission denied"),
        (errno.ENAMETOOLONG, 2, "error: /some/file: File name too long"),
        (errno.ENOSPC, 1, "error: disk full while writing /some/file (No space left on device); free some space"),
        (errno.EIO, 1, "error: /some/file: Input/output error"),
    ],
)
def test_an_os_error_is_one_line(number, code, told, monkeypatch, capsys):
    error = OSError(number, os.strerror(number), "/some/file")
    monkeypatch.setattr(commands, "list_text", lambda: (_ for _ in ()).throw(error))
    assert cli.main(["data", "list"]) == code
    text = capsys.readouterr().err
    assert text.startswith(told) and text.count("\n") == 1


@pytest.mark.parametrize("place", ["file/run", "x" * 300, "/dev/null/run"])
def test_a_place_that_cannot_be_is_told_before_the_work(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(process, "setup", lambda *arguments: None)
    out = tmp_path / place
    assert cli.main(["train", "--dataset", "no-such", "--out", str(out)]) == 2  # the config is read first
    capsys.readouterr()
    assert cli.main(["train", "--preset", "smoke", "--quiet", "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"run_key": str(2**32)}, r"run_key: is 4294967296; must be below 2\^32"),
        ({"first_seed": str(2**31 - 1)}, r"first_seed: is 2147483647 for 2 seeds; must stay below 2\^31"),
        ({"augment.batch": "1e12"}, r"augment.batch: is 1000000000000; must be below 2\^31"),
        ({"agent.hidden": "1e10"}, r"agent.hidden: is 10000000000; must be below 2\^31"),
        ({"online.utd": "1e9"}, r"online.utd: makes 60000000000 updates; must stay below 2\^31"),
        ({"agent.hidden": "1e9"}, "memory: the plan needs"),
        ({"online.utd": "2e7"}, "memory: the plan needs .*one dispatch"),
        ({"augment.batch": "1e9"}, "memory: the plan needs .*generating"),
        ({"augment.width": "1e8"}, "memory: the plan needs .*generator"),
        ({"refresh.rows": "1e9", "refresh.chunk": "1e9", "refresh.capacity": "1e9"}, "memory: the plan needs"),
        ({"mix.batch_size": "1e8"}, "memory: the plan needs"),
        ({"evaluate.episodes": "1e9"}, "memory: the plan needs .*evaluation"),
        ({"seeds": "1e8"}, "memory: the plan needs"),
        ({"online.capacity": "2e9"}, "memory: the plan needs .*online rings"),
    ],
)
def test_what_no_machine_holds_is_refused_before_anything_is_written(fields, told, tmp_path):
    with pytest.raises(UserError, match=told):
        config = toy_config(**{name.replace(".", "__"): value for name, value in fields.items()})
        cfdg_jax.train(config, tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


# -- signals while starting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "codes"), [(signal.SIGINT, (130, -2)), (signal.SIGTERM, (130, 143, -15))])
@pytest.mark.parametrize("after", [0.3, 1.5])
def test_a_signal_while_starting_ends_quietly(number, codes, after, tmp_path):
    command = [sys.executable, "-m", "cfdg_jax", "train", "--preset", "smoke", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(after)
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    assert process.returncode in codes and "Traceback" not in told, told
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_process_that_glfw_starts(number, tmp_path):
    slow = "import pathlib, time; pathlib.Path('begun').touch(); time.sleep(1); pathlib.Path('done').touch()"
    (tmp_path / "glfw.py").write_text(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {slow!r}])\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    script = "import cfdg_jax.envs; print('not stopped')"
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, number)  # as a terminal does
    printed, told = process.communicate(timeout=60)
    assert (tmp_path / "done").exists() and process.returncode == -number and printed == ""
    assert told.count("Traceback") == (number == signal.SIGINT)  # of KeyboardInterrupt, which no command line caught


# -- small damaged files, full disks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("agent", {"learning_rate": 1e-3}), r"agent\.name: is missing; valid: iql"),
        (("mix", {"name": 3}), r"mix\.name: is 3"),
        (("agent", 5), "agent: is no config field"),
        (("seeds", [1, 2]), r"seeds: is '\[1, 2\]'; must be a whole number"),
    ],
)
def test_a_config_of_another_form_is_one_line(change, told):
    with pytest.raises(UserError, match=told):
        from_dict(to_dict(toy_config()) | dict([change]))


def test_a_disk_that_is_full_for_a_log_or_a_summary_names_the_file(tmp_path, monkeypatch):
    logger = logging.RunLogger(tmp_path, toy_config())
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    logger._files["metrics.jsonl"] = types.SimpleNamespace(write=lambda data: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        logger.metrics("offline", 1, {"loss": 1.0})
    (tmp_path / "summary.json").write_text("{}")
    monkeypatch.setattr(logging.os, "fsync", lambda handle: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match=r"summary\.json"):
        logging.write_summary(tmp_path, {"status": "done"})
    assert (tmp_path / "summary.json").read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluations.jsonl", "metrics.jsonl", "summary.json"]
