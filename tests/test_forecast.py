"""A sweep's dry run: steps, memory and hours of every run, from a benchmark's rates."""

import json
import pathlib
import socket

import pytest

from cfdg_jax.cli import main
from cfdg_jax.errors import UserError
from cfdg_jax.forecast import forecast, read_rates, table
from cfdg_jax.presets import make_config
from cfdg_jax.sweep import read_sweep

SWEEPS = pathlib.Path(__file__).parents[1] / "benchmarks" / "sweeps"
RATES = {
    "device": "a test",
    "agents": {"iql_seeds_5": {"updates_per_second": 100.0}},
    "generator": {"fit_width_64": {"steps_per_second": 10.0}, "sample_width_64": {"rows_per_second": 50.0}},
}
FIELDS = {"seeds": 2, "offline.steps": 1_000, "online.steps": 3_000, "online.start_steps": 1_000,
          "online.capacity": 3_000, "refresh.every": 1_000, "refresh.rows": 500,
          "refresh.capacity": 600}  # fmt: skip


def test_hours_and_memory_by_hand():
    plain = forecast(make_config("local:hopper-medium-v0", "iql", **FIELDS), RATES)
    assert (plain.offline, plain.online, plain.refreshes) == (1_000, 3_000, 0)
    assert plain.hours == pytest.approx(2 * 3_000 / 100 / 3600)
    assert plain.gigabytes == pytest.approx(2 * 3_000 * 29 * 4e-9)
    own = {"augment.width": 64, "augment.steps": 100, "augment.sampler_steps": 16}
    generated = forecast(make_config("local:hopper-medium-v0", "iql", "cfdg", **FIELDS, **own), RATES)
    assert generated.refreshes == 2 and generated.gigabytes == pytest.approx(2 * (3_000 + 600 + 500) * 29 * 4e-9)
    assert generated.hours == pytest.approx(2 * (3_000 / 100 + 2 * (100 / 10 + 500 * 0.5 / 50)) / 3600)
    assert forecast(make_config("local:hopper-medium-v0", "pex", **FIELDS), RATES).hours is None


def test_pre_training_that_runs_share_is_counted_once():
    runs = [{}, {"augment": "cfdg", "augment.width": 64}, {"agent.tau": 0.01}]
    configs = [make_config("local:hopper-medium-v0", "iql", **{**FIELDS, **own}) for own in runs]
    *lines, last = table(configs, RATES).splitlines()[1:]
    assert [line.split()[-6] for line in lines] == ["1,000", "0", "1,000"]
    assert last.endswith("; pre-training that runs share is counted in the first")
    alone, borrowed = (forecast(configs[0], RATES, borrows) for borrows in (False, True))
    assert alone.hours - borrowed.hours == pytest.approx(2 * 1_000 / 100 / 3600)


def test_table_1_has_the_papers_cells(capsys, tmp_path):
    configs = read_sweep(SWEEPS / "table1.yaml")
    assert len(configs) == 16 * 3 * 2 and {config.seeds for config in configs} == {5}
    assert {config.preset for config in configs} == {"paper"}
    assert len(read_sweep(SWEEPS / "table1-reduced.yaml")) == 15 * 3 * 2
    rates = tmp_path / "bench.json"
    rates.write_text(json.dumps(RATES))
    assert main(["sweep", str(SWEEPS / "table1.yaml"), "--dry-run", "--rates", str(rates)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 96 + 1 and lines[-1].startswith("96 runs, ") and "a test" in lines[-1]
    assert "1,000,000" in lines[1] and lines[1].startswith("d4rl:halfcheetah-random-v2 ")


def test_a_dry_run_of_a_cluster_says_what_it_would_ask_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.chdir(tmp_path)  # where there are no rates
    fields = "fields: {seeds: 4, dataset: 'local:hopper-medium-v0'}"
    (tmp_path / "two.yaml").write_text(f"{fields}\nruns: [{{}}, {{augment: cfdg}}]")
    command = ["sweep", "two.yaml", "--dry-run", "--on", "ray", "--group", "2", "--gpus"]
    assert main([*command, "0.5"]) == 0
    *_, last, asked = lines = capsys.readouterr().out.splitlines()
    assert [line[:50].rstrip()[-9:] for line in lines[1:3]] == ["seeds 0-1", "seeds 2-3"]
    assert last.startswith("4 runs, hours unknown: no rates in ")
    assert asked.startswith("4 tasks of 1 cpus, 0.5 gpus on head:6379, after 2 of pre-training that several share; ")
    assert main([*command, "-1"]) == 2 and "--gpus: is -1; must be at least 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "fields", "said"),
    [
        (["--on", "ray", "--cpus", "4096"], "", "--cpus: is 4096 and this machine has "),
        (["--on", "ray", "--gpus", "1.5"], "", "--gpus: is 1.5; must be whole above 1"),
        (["--on", "ray", "--gpus", "4096"], "", "--gpus: is 4096 and this machine has "),
        (
            ["--on", "ray"],
            "devices: 2",
            "devices: is 2 and a task is given 1; give it as many with --cpus 2 or --gpus 2",
        ),
        (["--cpus", "2"], "", "--cpus: is of a run on a cluster; add --on ray, or leave it out"),
    ],
)
def test_what_no_task_can_be_given_is_refused_beforehand(words, fields, said, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "one.yaml").write_text(f"fields: {{dataset: 'local:hopper-medium-v0', {fields}}}")
    for dry in ([], ["--dry-run"]):
        assert main(["sweep", str(tmp_path / "one.yaml"), "--out", str(tmp_path / "out"), *words, *dry]) == 2
        assert f"error: {said}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_does_not_answer_is_told(tmp_path, capsys, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{unused.getsockname()[1]}")
    (tmp_path / "one.yaml").write_text("fields: {dataset: 'local:hopper-medium-v0'}")
    assert main(["sweep", str(tmp_path / "one.yaml"), "--out", str(tmp_path / "out"), "--on", "ray"]) == 2
    said = capsys.readouterr().err
    assert "error: RAY_ADDRESS: is 127.0.0.1:" in said and "start the cluster, or unset it" in said


def test_rates_that_are_none(tmp_path):
    with pytest.raises(UserError, match="does not exist; make it with: cfdg-jax bench"):
        read_rates(str(tmp_path / "absent.json"))
    (tmp_path / "bad.json").write_text("[")
    with pytest.raises(UserError, match="is no json"):
        read_rates(str(tmp_path / "bad.json"))
