"""The scripts of `benchmarks/`: what is written when the time is up, and how a script was called."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def test_an_end_at_any_moment_leaves_what_was_measured_and_names_the_rest(tmp_path, monkeypatch):
    import gpu

    def cut(quick, found):
        yield "first", 1.0
        raise KeyboardInterrupt  # stands for the end of the process

    parts = {"products": lambda quick, found: {"rate": 2.0}, "seeds": cut, "online": None}
    monkeypatch.setattr(gpu, "PARTS", parts)
    path = tmp_path / "gpu.json"
    with pytest.raises(KeyboardInterrupt):
        gpu.measure(True, path)
    found, page = json.loads(path.read_text()), path.with_suffix(".md").read_text()
    assert found["products"] == {"rate": 2.0} and found["seeds"] == {"first": 1.0}
    assert found["left_out"] == ["seeds (in part)", "online"] and set(found["seconds"]) == {"products"}
    assert "Left out, for the time was up: seeds (in part), online." in page and "| first | 1 |" in page


def test_the_time_of_the_measurements_of_an_accelerator_is_a_hard_limit(tmp_path):
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\ntrap '' TERM INT\nexec sleep 60\n")
    slow.chmod(0o755)
    start = time.monotonic()
    done = subprocess.run(
        ["bash", ROOT / "benchmarks" / "gpu.sh"], env=os.environ | {"PYTHON": str(slow), "LIMIT": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert time.monotonic() - start < 30 and "the time was up after 1 seconds" in done.stdout


def test_results_hold_the_command_as_called_without_paths_of_the_machine(monkeypatch):
    from called import command

    words = ["../before", "--agents", "iql", "--torch", "/home/me/bin/python", "--out=/tmp/a b.json", "--rounds=3"]
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "in_turns.py"), *words])
    assert command() == (
        "python benchmarks/in_turns.py ../before --agents iql --torch python '--out=a b.json' --rounds=3"
    )
    assert command("benchmarks/gpu.sh").startswith("benchmarks/gpu.sh ../before --agents iql")


def test_no_script_writes_its_command_by_hand():
    texts = {path.name: path.read_text() for path in (ROOT / "benchmarks").glob("*.py")}
    assert [name for name, text in texts.items() if re.search(r'"command": f?"', text)] == []
