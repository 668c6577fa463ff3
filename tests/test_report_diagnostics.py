"""Pictures of stratifiers and generators: what they read, and that they are there only where something was logged."""

import json

import numpy as np
from fake_runs import write_run

from cfdg_jax.report import diagnostics
from cfdg_jax.report.build import build_report
from cfdg_jax.report.runs import read_run


def with_metrics(folder, lines):
    write_run(folder)
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return folder


def marks(step):
    values = {f"score_{origin}_p{q}": [q / 100, q / 50, None] for origin in ("offline", "online") for q in (10, 50, 90)}
    values |= {f"score_{origin}_bin{i:02d}": [i / 91] * 3 for origin in ("offline", "online") for i in range(14)}
    values |= {name: [0.2, 0.4, 0.6] for name in ("offline_marked_online", "online_marked_offline")}
    return {
        "phase": "online",
        "step": step,
        "energy_loss": [2.0] * 3,
        "energy_floor": [1.5] * 3,
        "proposal_gain": [4.0] * 3,
        "exchanged": [60.0] * 3,
        **values,
    }


def quality(step):
    measured = {"dynamics_error": [0.1, 0.3, None], "online_nearer": [0.5] * 3}
    return {"phase": "refresh", "step": step, **{f"synthetic_online/{name}": v for name, v in measured.items()}}


def test_series_are_means_over_the_seeds_that_have_a_value(tmp_path):
    run = read_run(with_metrics(tmp_path / "run", [marks(100), marks(200), quality(150)]))
    steps, values = diagnostics.series(run, "online", "score_offline_p50")
    np.testing.assert_array_equal(steps, [100, 200])
    np.testing.assert_allclose(values, 0.75)
    np.testing.assert_allclose(diagnostics.series(run, "refresh", "synthetic_online/dynamics_error")[1], 0.2)
    assert len(diagnostics.series(run, "online", "nothing")[0]) == 0


def test_pictures_show_what_was_logged(tmp_path):
    run = read_run(with_metrics(tmp_path / "run", [marks(100), marks(200), quality(150)]))
    scores, shares, energy, histogram, exchanged, gain = diagnostics.stratification(run).axes
    np.testing.assert_allclose(histogram.patches[0].get_data().values, np.arange(14) / 91)
    np.testing.assert_allclose(exchanged.lines[0].get_ydata(), 60.0)
    assert len(scores.lines) == len(shares.lines) == len(energy.lines) == 2
    np.testing.assert_allclose(energy.lines[0].get_ydata(), 2.0)
    np.testing.assert_allclose(gain.lines[0].get_ydata(), 4.0)
    figure = diagnostics.generator_quality([run])
    assert len(figure.axes) == 2
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), 0.2)


def test_tables_hold_the_last_values_of_the_seeds_that_have_one(tmp_path):
    later = marks(200) | {"offline_marked_online": [0.3, 0.5, 0.7]}
    run = read_run(with_metrics(tmp_path / "run", [marks(100), later, quality(150)]))
    marked, made = diagnostics.all_tables([run])
    assert marked.title.startswith(run.dataset) and made.title.startswith(run.dataset)
    row = dict(zip(marked.header, marked.rows[0], strict=True))
    assert row["Method"] == run.label and row["Energy loss"].startswith("2.00")
    assert row["Rows exchanged per batch"].startswith("60.00") and row["Gain in Q by guidance"].startswith("4.00")
    assert row["Offline rows marked online-like"] == "0.50 [0.30, 0.70]"
    assert row["Score of offline rows"] == "–"  # `marks` logs percentiles alone
    (row,) = made.rows
    assert row[0] == f"{run.label}, online label" and row[1] == "0.20 [undefined]"  # two of three seeds have a value
    assert diagnostics.all_tables([read_run(write_run(tmp_path / "plain"))]) == []


def test_the_page_has_them_only_where_there_is_something_to_show(tmp_path):
    plain, full = write_run(tmp_path / "plain"), with_metrics(tmp_path / "full", [marks(100), quality(150)])
    assert diagnostics.generator_quality([read_run(plain)]) is None
    without = build_report([plain], tmp_path / "a").read_text(encoding="utf-8")
    page = build_report([full], tmp_path / "b").read_text(encoding="utf-8")
    for title in ("Inside the methods", "Who was treated conservatively", "Quality of generated rows"):
        assert title in page and title not in without
    assert "Energy loss" in (tmp_path / "b" / "scores.md").read_text(encoding="utf-8")
