"""The command line: what it does to its process, what it answers at once, what it says of a run."""

import ctypes
import os
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest

from cfdg_jax import cli, process
from cfdg_jax.axis import Lane
from cfdg_jax.commands.runs import scores_table
from cfdg_jax.fields import from_yaml
from cfdg_jax.presets import make_config

TRIM, MMAP = -1, -3


@pytest.fixture
def mallopt(monkeypatch):
    """The calls of a C library that takes thresholds up to `most`."""
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(process.sys, "platform", "linux")

    def install(most):
        calls = []

        def mallopt(parameter, value):
            calls.append((parameter, value))
            return int(parameter == TRIM or value <= most)

        monkeypatch.setattr(ctypes, "CDLL", lambda name: types.SimpleNamespace(mallopt=mallopt))
        return calls

    return install


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1 << 40, [(MMAP, 1 << 30), (TRIM, 1 << 30)]),
        (1 << 25, [(MMAP, 1 << 30), (MMAP, 1 << 25), (TRIM, 1 << 30)]),
        (0, [(MMAP, 1 << 30), (MMAP, 1 << 25)]),
    ],
    ids=["glibc now", "older glibc", "neither taken"],
)
def test_freed_memory_is_kept_where_large_blocks_can_come_from_it(mallopt, most, expected):
    """A trim threshold alone would freeze the other at 128 KB."""
    calls = mallopt(most)
    process.keep_freed_memory()
    assert calls == expected


@pytest.mark.parametrize("variable", ["MALLOC_TOP_PAD_", "GLIBC_TUNABLES"])
def test_what_the_user_set_of_the_allocator_stands(mallopt, monkeypatch, variable):
    calls = mallopt(1 << 40)
    monkeypatch.setenv(variable, "1")
    process.keep_freed_memory()
    assert calls == []


def test_other_systems_are_left_alone(mallopt, monkeypatch):
    calls = mallopt(1 << 40)
    monkeypatch.setattr(process.sys, "platform", "darwin")
    process.keep_freed_memory()
    monkeypatch.setattr(process.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: types.SimpleNamespace())
    process.keep_freed_memory()  # musl has no mallopt
    assert calls == []


# -- what is answered before JAX is imported ---------------------------------------------------------------------------


def answer(*words, environ=None):
    """Exit code, output, errors and seconds of processor time of ``python -m cfdg_jax``, and whether JAX was loaded."""
    code = (
        "import resource, sys\nfrom cfdg_jax.cli import main\ncode = main()\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print('|', used.ru_utime + used.ru_stime, sorted({'jax', 'numpy', 'mujoco'} & set(sys.modules)))\n"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | (environ or {}))
    out, _, used = done.stdout.rpartition("|")
    seconds, _, heavy = used.strip().partition(" ")
    return done.returncode, out.strip(), done.stderr.strip(), float(seconds), heavy


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--version", 0, "cfdg-jax 0."),
        ("--help", 0, "train many seeds at once"),
        ("train --help", 0, "--from-offline DIR"),
        ("data list", 0, "local:hopper-medium-v0"),
        ("list agents", 0, "iql        implicit Q-learning (Kostrikov, Nair, Levine 2021)"),
        ("list environments", 0, "gym:ID"),
        ("train --explain online", 0, "online.utd"),
        ("trian", 2, "error: cfdg-jax: 'trian' is no command; did you mean train? `cfdg-jax --help` lists all"),
        ("data lst", 2, "error: cfdg-jax data: 'lst' is no command; did you mean list?"),
        ("report", 2, "error: cfdg-jax report: missing argument 'RUN_DIR...'; see cfdg-jax report --help"),
        ("report x --owt y", 2, "error: --owt: is no option of cfdg-jax report; did you mean --out"),
        ("list agent", 2, "error: list: 'agent' is unknown; did you mean agents"),
        ("train --agnt iql", 2, "error: agnt: is no config field; did you mean agent"),
        ("train --agent iqq", 2, "error: agent: 'iqq' is unknown; did you mean iql? `cfdg-jax list agents` lists all"),
        ("train --agent cfdg", 2, "error: agent: 'cfdg' is unknown; it is chosen by --augment cfdg"),
        ("train --agent iql --agent.alpha 1", 2, "agent.alpha: is no config field; it belongs to --agent td3bc"),
        ("train --agent.expectle=1", 2, "agent.expectle: is no config field; did you mean agent.expectile"),
        ("train --seeds many", 2, "error: seeds: is 'many'; must be a whole number"),
        ("train --online.utd 0", 2, "error: online.utd: is 0; must be at least 1"),
        ("train --agent iql --agent.expectile 2", 2, "agent.expectile: is 2.0; must lie strictly between 0 and 1"),
        ("train --agent.tau 0", 2, "agent.tau: is 0.0; must lie in (0, 1]"),
        ("train --agent iql --agent.variant corll", 2, "error: agent.variant: 'corll' is unknown; did you mean corl"),
        ("train --transform.reward rw", 2, "error: transform.reward: is 'rw'; did you mean raw? valid: raw"),
        ("train --preset papr", 2, "error: preset: 'papr' is unknown; did you mean paper"),
        ("train --dataset hopper-medum-v2", 2, "did you mean d4rl:hopper-medium-v2"),
        ("train --explain agent.expectle", 2, "agent.expectle: is no config field; did you mean agent.expectile"),
    ],
)
def test_help_lists_and_mistakes_are_answered_at_once(words, code, said):
    """In processor time, which other processes do not lengthen."""
    found, out, err, seconds, heavy = answer(*words.split())
    assert found == code and said in (err if code else out)
    assert not code or (out == "" and "\n" not in err and len(err) < 300)
    assert err.count(" or ") <= 2, "at most three suggestions"
    assert heavy == "[]" and seconds < 0.4


def completed(line, script=""):
    """What bash would offer after `line`: its replies, or the type of click's one answer where files are asked for."""
    words = f"""
    eval "$({sys.executable} -m cfdg_jax)"
    cfdg-jax() {{ {sys.executable} -m cfdg_jax; }}
    env() {{ export COMP_WORDS="${{1#*=}}" _CFDG_JAX_COMPLETE=bash_complete; "$3"; }}
    compopt() {{ echo "$2"; }}
    COMP_LINE='{line}' COMP_POINT={len(line)} {script}
    _cfdg_jax_completion cfdg-jax
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", words], capture_output=True, text=True, check=True,
        env=os.environ | {"_CFDG_JAX_COMPLETE": "bash_source"},
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("tr", "train"),
        ("train --agent calq", "calql"),
        ("train --agent=calq", "calql"),
        ("train --dataset local:toy-sparse-med", "toy-sparse-medium-v0"),
        ("train --dataset=local:toy-sparse-med", "toy-sparse-medium-v0"),
        ("train --dataset local:", "toy-sparse-medium-v0"),
        ("train --dataset ./", "default"),
        ("train --agent iql --agent.exp", "--agent.expectile"),
        ("train --agent iql --agent.variant cor", "corl"),
        ("train --transform.reward min", "minus_one"),
        ("train --explain agent.exp", "agent.expectile"),
        ("train --vmap agent.exp", "nospace"),
        ("train --resume ", "dirnames"),
        ("train --out ", "dirnames"),
        ("report ", "dirnames"),
        ("evaluate ru", "dirnames"),
        ("sweep ", "default"),
        ("export run --out ", "default"),
        ("list ", "agents"),
        ("list env", "environments"),
        ("data inf", "info"),
        ("data info local:h", "hopper-medium-v0"),
    ],
)
def test_bash_completes_commands_methods_fields_values_and_paths(typed, expected):
    """The whole script but for readline, which breaks words at colons and equals signs."""
    assert expected in completed(f"cfdg-jax {typed}")


def test_bash_completes_nothing_after_a_mistake_and_whole_words_where_colons_break_none():
    assert completed("cfdg-jax trian --o") == [] and completed("cfdg-jax train --agent iqq --agent.e") == []
    found = completed("cfdg-jax train --dataset local:toy-sparse-med", "COMP_WORDBREAKS=' '")
    assert "local:toy-sparse-medium-v0" in found


# -- what is said of a run before it begins -----------------------------------------------------------------------


def test_a_field_is_explained(capsys):
    assert cli.main(["train", "--explain", "agent.expectile", "--dataset", "d4rl:antmaze-umaze-v2"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("agent.expectile   float\n  meaning   tau of the value regression; AntMaze 0.9\n")
    assert "used by   iql, pex" in text and "paper 0.9, reduced 0.9, smoke 0.9" in text and "iql pex: 0.9" in text
    assert "docs/algorithms.md#iql" in text and "Kostrikov" in text and "on d4rl:antmaze-umaze-v2)" in text


def test_show_marks_what_differs_from_the_preset(capsys):
    words = ["train", "--preset", "reduced", "--agent", "iql", "--seeds", "2", "--agent.hidden", "64,64", "--show"]
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    config = make_config(agent="iql", preset="reduced", seeds=2, agent__hidden=(64, 64))
    assert from_yaml(text) == config
    marked = [line for line in text.splitlines() if "#" in line]
    assert marked == ["  hidden:  # preset reduced: (256, 256)", "seeds: 2  # preset reduced: 3"]


def test_a_dry_run_says_what_the_run_would_do_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--preset", "smoke", "--dataset", "local:toy-dense-medium-replay-v0", "--augment", "cfdg"]
    assert cli.main([*words, "--dry-run"]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["data"] == "20,000 rows" and said["pre-training"].startswith("400 updates, 3 times 2 episodes")
    assert "400 environment steps a seed" in said["online"] and "1 refreshes of 500 rows" in said["online"]
    assert " MB, most of it " in said["memory"]
    assert said["time"].startswith("unknown: no rates in ")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    assert cli.main([*words, "--dry-run", "--out", "used"]) == 2
    assert "error: used: is not empty" in capsys.readouterr().err


def test_a_command_without_any_argument_is_read(monkeypatch, capsys):
    """Such as `make demo`, whose command is the name alone."""
    asked = []
    monkeypatch.setattr("cfdg_jax.demo.demo", lambda *arguments, **named: asked.append(arguments) or "report: page")
    assert cli.main(["demo"]) == 0 and len(asked) == 1
    assert capsys.readouterr().out == "report: page\n"
    for command in ("sample", "report", "evaluate", "export", "sweep", "list"):
        assert cli.main([command]) in (0, 2), command


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["train", "--explain", ""], "error: --explain: is empty; give it a value, or leave it out"),
        (["train", "--resume", ""], "error: --resume: is empty; give it a value, or leave it out"),
        (["train", "--out", ""], "error: --out: is empty; give it a value, or leave it out"),
        (["train", "--resume", "nowhere"], "error: nowhere: is no run folder (no config.yaml)"),
        (["evaluate", "nowhere"], "error: nowhere: is no run folder (no config.yaml)"),
        (["train", "--agent.variant", "nope"], "error: agent.variant: 'nope' is unknown"),
        (["train", "--seeds"], "see cfdg-jax train --help"),
        (["data", "describe", "x"], "error: cfdg-jax data: 'describe' is no command"),
    ],
)
def test_what_an_unset_variable_or_a_slip_gives_is_told_before_anything_is_imported(command, told, capsys, monkeypatch):
    monkeypatch.setattr("cfdg_jax.commands.train.starting", lambda *arguments: pytest.fail("imports begin"))
    monkeypatch.setattr("cfdg_jax.commands.runs.starting", lambda *arguments: pytest.fail("imports begin"))
    assert cli.main(command) == 2
    assert told in capsys.readouterr().err


def test_evaluation_names_lost_seeds_and_keeps_values_apart():
    lanes = [Lane(seed, {"agent.tau": value}) for value in (0.1, 0.9) for seed in (0, 1)]
    returns = np.array([[1.0, 3.0], [np.nan] * 2, [5.0, 5.0], [7.0, 7.0]])
    scores = {"return": returns, "normalized_score": None, "success": 0 * returns, "length": np.full((4, 2), 9)}
    lines = [" ".join(line.split()) for line in scores_table(lanes, scores).splitlines()]
    assert lines[2] == "1 at tau 0.1 lost in training: its parameters are not finite"
    assert lines[5:] == [
        "all at tau 0.1 2 2.0 1.0 - 0.00 9 over 1 of 2 seeds",
        "all at tau 0.9 4 6.0 1.0 - 0.00 9",
    ]
