"""`--share I/N`: one of several machines trains its part of the seeds."""

import json
import os
import subprocess
import sys

import pytest
from train_helpers import TOY

from cfdg_jax.cli import main
from cfdg_jax.errors import UserError
from cfdg_jax.grid import share
from cfdg_jax.presets import make_config
from cfdg_jax.report.groups import read_runs

SHORT = ["--preset", "smoke", "--offline.steps", "4", "--online.steps", "0", "--evaluate.episodes", "1"]


def test_shares_are_folders_of_their_own_and_one_run_in_a_report(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cfdg_jax.training.devices.part_of_cluster", lambda: "1/2")
    words = ["train", "--dataset", TOY, *SHORT, "--seeds", "4", "--quiet", "--out", str(tmp_path / "run")]
    for part in ("0/2", "auto"):
        assert main([*words, "--share", part]) == 0, capsys.readouterr().err
    folders = [tmp_path / "run" / f"share-{index}" for index in range(2)]
    assert [json.loads((each / "summary.json").read_text())["seeds"] for each in folders] == [[0, 1], [2, 3]]
    (run,) = read_runs(folders)
    assert run.numbers == [0, 1, 2, 3] and run.evaluations[-1].returns.shape == (4, 1)
    assert main(["train", "--resume", str(folders[0]), "--share", "0/2"]) == 2
    assert "--share: cannot change on --resume" in capsys.readouterr().err


ASK = "import jax; from cfdg_jax.training import devices; print(devices.part_of_cluster(), jax.device_count())"


def test_processes_of_a_cluster_learn_their_parts_and_keep_their_own_devices():
    """As Slurm starts them; the port that they meet at follows from the job's number."""
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    slurm |= {"no_proxy": "localhost"}
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", ASK],
            env=os.environ | slurm | {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    assert [task.communicate(timeout=120)[0].split() for task in tasks] == [["0/2", "1"], ["1/2", "1"]]


def test_without_a_cluster_there_is_no_part():
    command = [sys.executable, "-m", "cfdg_jax", "train", "--dataset", TOY, *SHORT, "--share", "auto"]
    done = subprocess.run(
        command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: --share: is auto, and jax.distributed found no cluster (")
    assert "must be called before" not in done.stderr, "nothing is computed before it is asked"


def test_shares_are_equal_and_cover_the_seeds():
    config = make_config(TOY, preset="smoke", seeds=6, first_seed=10)
    parts = [share(config, f"{index}/3") for index in range(3)]
    assert [(part.first_seed, part.seeds) for part in parts] == [(10, 2), (12, 2), (14, 2)]
    with pytest.raises(UserError, match=r"^seeds: is 6 for 4 shares; make it a multiple of 4"):
        share(config, "0/4")


@pytest.mark.parametrize("part", ["2", "2/2", "a/2", "0/0", "/2", "-1/2"])
def test_parts_that_cannot_be_are_refused(part):
    with pytest.raises(UserError, match=r"^--share: is .* must be INDEX/COUNT"):
        share(make_config(TOY, preset="smoke"), part)
