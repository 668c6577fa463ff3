"""Curves to look into: what the menu, the slider and the published curves show."""

import json
import re

import numpy as np
import pytest
from fake_runs import write_run

from cfdg_jax.report import interactive, tables
from cfdg_jax.report.groups import read_runs
from cfdg_jax.report.published import published


def figure_of(html):
    """Data and layout of a plotly element."""
    call = re.search(r"Plotly\.newPlot\(\s*\"\w[\w-]*\",\s*(\[.*\]),\s*(\{.*\}),\s*(\{.*?\})\s*\)", html, re.S)
    return json.loads(call[1]), json.loads(call[2])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    dataset = "d4rl:antmaze-umaze-v2"
    return read_runs([write_run(base / label, label=label, dataset=dataset) for label in ("IQL", "Cal-QL")])


def test_the_menu_shows_means_all_seeds_or_one(runs):
    data, layout = figure_of(interactive.curves(runs, "curves-0"))
    names = [trace.get("name", "") for trace in data]
    seeds = [i for i, name in enumerate(names) if ", seed " in name]
    assert len(seeds) == 2 * 2 * 3 and not any(data[i]["visible"] for i in seeds)
    buttons = {button["label"]: button["args"][0]["visible"] for button in layout["updatemenus"][0]["buttons"]}
    assert all(buttons["all seeds"][i] is True for i in seeds)
    shown = [names[i] for i in seeds if buttons["seed at place 1"][i]]
    assert len(shown) == 4 and all(name.endswith("seed 1") for name in shown)


def test_the_slider_smooths_every_curve(runs):
    data, layout = figure_of(interactive.curves(runs, "curves-0"))
    steps = layout["sliders"][0]["steps"]
    assert [step["label"] for step in steps] == ["1", "3", "5", "9"]
    own = [np.array(y) for y in steps[0]["args"][0]["y"]]
    three = [np.array(y) for y in steps[1]["args"][0]["y"]]
    assert len(own) == len(data)
    for raw, smooth in zip(own, three, strict=True):
        np.testing.assert_allclose(smooth[2:], (raw[2:] + raw[1:-1] + raw[:-2]) / 3)
        np.testing.assert_allclose(smooth[:2], [raw[0], raw[:2].mean()])


def test_published_curves_are_there_where_there_are_any(runs, tmp_path):
    data, _ = figure_of(interactive.curves(runs, "curves-0"))
    others = {trace["name"] for trace in data if trace.get("visible") == "legendonly"}
    assert others == {f"{name}, CORL" for name in ("IQL", "AWAC", "CQL", "Cal-QL", "ReBRAC", "SPOT")}
    local = read_runs([write_run(tmp_path / "run")])
    assert "CORL" not in interactive.curves(local, "curves-0")


def test_published_numbers_are_those_of_the_tables():
    """CORL's own table of AntMaze umaze: IQL 77.00 after pre-training, 96.50 after fine-tuning."""
    last = {(curve.method, curve.phase): curve for curve in published("d4rl:antmaze-umaze-v2")}
    assert last["IQL", "offline"].mean[-1] == pytest.approx(77.0, abs=0.01)
    assert last["IQL", "online"].mean[-1] == pytest.approx(96.5, abs=0.01)
    assert last["IQL", "online"].steps[-1] == 1_000_000
    assert published("local:hopper-medium-v0") == []


def test_differences_are_paired_by_seed(runs, tmp_path):
    first, second = runs
    expected = tables.per_seed(first)["last"] - tables.per_seed(second)["last"]
    np.testing.assert_allclose(tables.paired_difference(first, second), expected)
    (fewer,) = read_runs([write_run(tmp_path / "run", seeds=2)])
    assert tables.paired_difference(first, fewer) is None
