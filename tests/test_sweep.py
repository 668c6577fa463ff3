"""Sweep files: what they expand to, what is refused, that pre-training is shared and finished runs are kept."""

import pathlib

import pytest
from train_helpers import lines, toy_config

from cfdg_jax.errors import UserError
from cfdg_jax.grid import cells, pre_training_hash
from cfdg_jax.sweep import read_sweep, sweep

pytestmark = pytest.mark.usefixtures("generators_are_shallow", "programs_are_shared")

FILE = """
preset: smoke
fields: {seeds: 2, agent.hidden: [16, 16], augment.width: 24, agent.expectile: 0.8}
over: {dataset: [local:toy-dense-medium-replay-v0, local:toy-sparse-medium-replay-v0]}
runs:
  - {agent: iql}
  - {agent: iql, augment: cfdg, label: both}
  - {agent: sac, stratify: by_source, online.utd: 3}
"""


def written(tmp_path, text):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return path


def test_every_combination_in_the_files_order(tmp_path):
    configs = read_sweep(written(tmp_path, FILE))
    names = ["IQL", "both", "SAC + BySource"]
    assert [c.name for c in configs] == names * 2
    assert [c.dataset.split("-")[1] for c in configs] == ["dense"] * 3 + ["sparse"] * 3
    assert all(c.seeds == 2 and c.agent.hidden == (16, 16) and c.preset == "smoke" for c in configs)
    assert configs[0].agent.expectile == 0.8 and configs[1].augment.width == 24
    assert configs[2].online.utd == 3


def test_pre_training_is_the_same_whatever_comes_after(tmp_path):
    first, second, third, *_, other = map(pre_training_hash, read_sweep(written(tmp_path, FILE)))
    assert first == second and len({first, third, other}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs: [{agent: iqll}]", "agent: 'iqll' is unknown; did you mean iql"),
        ("run: []", "sweep.yaml: run: is unknown; did you mean runs"),
        ("over: {dataset: x}", "over.dataset: is 'x'; must be a list"),
        ("fields: {agent.expectil: 1}", "agent.expectil: is no config field; did you mean agent.expectile"),
        ("runs: [{augment: none, augment.width: 3}]", "augment.width: is no config field"),
        ("runs: [{agent: iql}, {agent: sac}, {agent: iql}]", "is listed twice"),
        ("runs: [{agent: iql, agent.tau: 2}]", "'agent.tau': 2}: agent.tau: is 2.0; must lie in (0, 1]"),
        ("- a", "is no mapping"),
        ("a: [", "is not valid yaml"),
        ("runs: [iql, td3bc]", "sweep.yaml: run 1: is 'iql'; must hold fields"),
        ("fields: {agent.hidden: 64}", "agent.hidden: is 64; must be a list, such as 64,64"),
    ],
)
def test_refusals_are_one_line_that_names_the_place(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        read_sweep(written(tmp_path, text))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_file_of_another_encoding_is_refused(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_bytes(b"runs: [{agent: iql, label: L\xe9vy}]")
    with pytest.raises(UserError, match="is not valid yaml in UTF-8"):
        read_sweep(path)


def test_groups_hold_every_seed_once_and_a_negative_size_is_refused(tmp_path):
    (config,) = read_sweep(written(tmp_path, "fields: {seeds: 5, first_seed: 2}"))
    parts = [(cell.config.first_seed, cell.config.seeds) for cell in cells([config], tmp_path, 2)]
    assert parts == [(2, 2), (4, 2), (6, 1)] and len(cells([config], tmp_path)) == 1
    with pytest.raises(UserError, match="--group: is -1; must be at least 1"):
        cells([config], tmp_path, -1)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_sweep(tmp_path / "none.yaml")


def test_runs_share_pre_training_and_are_kept(tmp_path, monkeypatch):
    configs = [toy_config("none"), toy_config("cfdg")]
    page = sweep(configs, tmp_path / "out", progress=False)
    assert page == tmp_path / "out" / "report" / "report.html" and page.is_file()
    folders = sorted(path for path in (tmp_path / "out").iterdir() if (path / "config.yaml").is_file())
    assert len(folders) == 2
    offline = lambda folder, name: [line for line in lines(folder, name) if line["phase"] == "offline"]
    assert offline(folders[0], "evaluations.jsonl") == offline(folders[1], "evaluations.jsonl")
    trained = [bool(offline(folder, "metrics.jsonl")) for folder in folders]
    assert sorted(trained) == [False, True], "one of the two pre-trained, the other borrowed"

    def fail(*args, **kwargs):
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr("cfdg_jax.grid.train", fail)
    assert sweep(configs, tmp_path / "out", progress=False) == page
    assert isinstance(page, pathlib.Path)
