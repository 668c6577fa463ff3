"""What the command line does to its own process."""

import json
import os
import subprocess
import sys

import pytest

from cfdg_jax.core.machine import cores

SHOW = "import jax; print(jax.local_device_count())"


def shown(code, **env):
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.parametrize(("flags", "count"), [("", cores()), ("--xla_force_host_platform_device_count=3", 3)])
def test_a_device_for_every_core_unless_the_user_says_how_many(flags, count):
    assert shown(f"from cfdg_jax.process import setup; setup(); {SHOW}", XLA_FLAGS=flags) == str(count)


def test_called_too_late_it_leaves_the_devices_as_they_are():
    assert shown(f"import jax; jax.devices(); from cfdg_jax.process import setup; setup(); {SHOW}", XLA_FLAGS="") == "1"


@pytest.mark.skipif(cores() < 2, reason="needs two cores")
def test_seeds_are_parted_among_cores_by_the_command_line(tmp_path):
    asked = ["--dataset", "local:toy-dense-medium-v0", "--preset", "smoke", "--quiet", "--online.steps", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "cfdg_jax", "train", *asked, "--devices", "2", "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["devices"], summary["status"], summary["failed_seeds"]) == (2, "done", {})
