"""``data check`` and ``data info``: what they print, their exit codes, json, and names with a star."""

import json

import numpy as np
import pytest

from cfdg_jax.cli import main
from cfdg_jax.data import doctor
from cfdg_jax.data.collect import collect
from cfdg_jax.data.hdf5 import write_hdf5
from cfdg_jax.envs.registry import make_env
from cfdg_jax.errors import UserError


@pytest.fixture
def own(tmp_path):
    """Rows that Hopper's own environment logged."""
    policy = lambda obs, rng: rng.uniform(-1, 1, (len(obs), 3))
    arrays = collect(make_env("hopper", [0, 1], "d4rl"), policy, 400, np.random.default_rng(0))
    path = tmp_path / "own.hdf5"
    write_hdf5(path, arrays, {"task": "hopper", "dynamics": "d4rl"})
    return path, arrays


def test_rows_that_agree(own, capsys):
    path, _ = own
    assert main(["data", "check", str(path)]) == 0
    *_, compared, verdict = capsys.readouterr().out.splitlines()
    assert compared.startswith("replayed ") and "rows in hopper (d4rl dynamics): observations differ by" in compared
    assert verdict.startswith(f"{path}: 400 rows, ") and verdict.endswith(" episodes, usable")


def test_rows_of_other_dynamics_fail_the_check(own, tmp_path, capsys):
    _, arrays = own
    wrong = tmp_path / "wrong.hdf5"
    write_hdf5(wrong, arrays, {"task": "hopper", "dynamics": "gymnasium"})
    assert main(["data", "check", str(wrong)]) == 2
    out = capsys.readouterr().out
    assert "disagreement: with hopper (gymnasium dynamics): " in out and "set env.dynamics to d4rl" in out
    assert out.splitlines()[-1].endswith("not what this environment does")


def test_json_of_check_and_info(own, capsys):
    path, _ = own
    assert main(["data", "check", "--json", str(path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["usable"] and found["agreement"]["rows"] > 100 and found["facts"]["rows"] == 400
    assert main(["data", "info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["actions"]["width"] == 3


def test_options_belong_to_their_commands(own, capsys):
    path, _ = own
    assert main(["data", "check", str(path), "--rows", "5"]) == 2
    assert "--rows: is no option of cfdg-jax data check" in capsys.readouterr().err
    assert main(["data", "build", "--rows", "many", "local:toy-sparse-medium-v0"]) == 2
    assert "rows" in capsys.readouterr().err


def test_a_star_stands_for_all_names_of_a_shape():
    assert doctor.expand("local:toy-*e-expert-v0") == ["local:toy-sparse-expert-v0", "local:toy-dense-expert-v0"]
    assert doctor.expand("some/*.hdf5") == ["some/*.hdf5"]
    with pytest.raises(UserError, match="matches no dataset"):
        doctor.expand("local:*-nothing")


def test_no_warning_on_real_files_that_are_right(data_dir):
    """Ant's 84 contact forces are zeros in D4RL; people took up to 300 steps to open the door."""
    ant = doctor.examine(str(data_dir / "gym_v2_mujoco_py" / "ant-v2-return5545.hdf5"))
    door = doctor.examine(str(data_dir / "d4rl" / "door-v0_demos_clipped.hdf5"))
    assert ant.report.warnings == door.report.warnings == () and ant.usable and door.usable
