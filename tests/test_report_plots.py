"""Pictures: what they show, and that equal runs give equal files."""

import numpy as np
import pytest
from fake_runs import write_run
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cfdg_jax.report import plots
from cfdg_jax.report.groups import read_runs
from cfdg_jax.report.runs import read_run


def texts(figure):
    """Every text a figure draws."""
    return [artist.get_text() for artist in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def lines_of(ax, label):
    return [line for line in ax.lines if line.get_label() == label]


def test_learning_curves_show_both_phases_and_the_hand_over(tmp_path):
    runs = read_runs([write_run(tmp_path / "a"), write_run(tmp_path / "b", label="IQL + CFDG", refreshes=(5000,))])
    figure = plots.learning_curves(runs)
    offline, online = figure.axes
    assert offline.get_position().x1 == pytest.approx(online.get_position().x0)
    assert offline.get_xlim() == (0, 20000) and online.get_xlim() == (0, 10000)
    assert "hand-over" in texts(figure)
    for run in runs:
        for ax, phase in ((offline, "offline"), (online, "online")):
            (line,) = lines_of(ax, run.label)
            np.testing.assert_allclose(
                line.get_xydata(), np.stack([run.curve(phase)[0], run.curve(phase)[1].mean(1)], 1)
            )
    assert len(online.collections) == 2
    ticks = [line for line in online.lines if line.get_xdata()[0] == line.get_xdata()[-1]]
    assert [tick.get_xdata()[0] for tick in ticks] == [5000]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["IQL", "IQL + CFDG"]


def test_band_is_the_interval_and_absent_below_three_seeds(tmp_path):
    three, two = (read_run(write_run(tmp_path / str(n), seeds=n, online=False)) for n in (3, 2))
    (band,) = plots.learning_curves([three]).axes[0].collections
    scores = three.curve("offline")[1]
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(scores.min()) and heights.max() == pytest.approx(scores.max())
    (band,) = plots.learning_curves([two]).axes[0].collections
    assert all(len(path.vertices) == 0 for path in band.get_paths())


def test_single_phase_has_no_hand_over_and_mixed_runs_share_a_legend(tmp_path):
    offline = read_run(write_run(tmp_path / "a", online=False, label="only offline"))
    assert "hand-over" not in texts(plots.learning_curves([offline]))
    both = read_run(write_run(tmp_path / "b"))
    legend = plots.learning_curves([offline, both]).legends[0]
    assert {text.get_text() for text in legend.get_texts()} == {"only offline", "IQL"}


@pytest.mark.parametrize("label", ["IQL", "IQL + StratDiff without guidance", "M" * 60])
def test_a_legend_of_many_runs_stays_inside_its_figure_and_above_its_axes(tmp_path, label):
    runs = read_runs([write_run(tmp_path / str(n), label=f"{label} {n}") for n in range(7)])
    figure = plots.learning_curves(runs)
    FigureCanvasAgg(figure).draw()
    extent = figure.legends[0].get_window_extent()
    assert extent.x1 <= figure.bbox.x1 and extent.y0 >= figure.axes[0].get_window_extent().y1


def test_runs_beyond_the_colours_are_told_apart_by_their_lines(tmp_path):
    runs = read_runs([write_run(tmp_path / str(n), label=f"run {n}") for n in range(9)])
    online = plots.learning_curves(runs).axes[1]
    looks = [(line.get_color(), line.get_linestyle()) for run in runs for line in lines_of(online, run.label)]
    assert len(looks) == len(set(looks)) == 9 and looks[0][0] == looks[7][0]


def test_raw_returns_are_labelled_as_such(tmp_path):
    run = read_run(write_run(tmp_path / "a", normalized=False))
    assert plots.learning_curves([run]).axes[0].get_ylabel() == "return"
    assert plots.seed_scores([run]).axes[0].get_xlabel() == "return"


@pytest.mark.parametrize(("step", "label"), [(0, "0"), (500, "500"), (20_000, "20k"), (1_500_000, "1.5M")])
def test_step_labels(step, label):
    assert plots.thousands(step) == label


def test_row_map_is_seeded_balanced_and_separates_what_is_apart():
    rng = np.random.default_rng(0)
    samples = {"offline": rng.normal(size=(60, 5)), "online": rng.normal(size=(40, 5)) + 12.0}
    first, again = plots.row_map(samples, points=60), plots.row_map(samples, points=60)
    assert {kind: xy.shape for kind, xy in first.items()} == {"offline": (30, 2), "online": (30, 2)}
    for kind, positions in first.items():
        np.testing.assert_array_equal(positions, again[kind])
    centers = np.stack([positions.mean(axis=0) for positions in first.values()])
    spread = max(positions.std() for positions in first.values())
    assert np.linalg.norm(centers[0] - centers[1]) > 2 * spread


def test_row_map_does_not_depend_on_units():
    """Powers of two leave standardised rows equal to the last bit; a constant column is harmless."""
    rows = np.random.default_rng(0).normal(size=(40, 4)) * [1, 1, 1, 0]
    plain, scaled = (plots.row_map({"offline": rows * units}) for units in (1.0, 2.0 ** np.array([-8, 0, 4, 9])))
    np.testing.assert_array_equal(plain["offline"], scaled["offline"])


def test_tsne_panels_follow_the_kinds_present(tmp_path):
    run = read_run(write_run(tmp_path / "a", samples=20))
    figure = plots.tsne(run, points=80)
    assert [ax.get_title("left") for ax in figure.axes] == [
        "real rows",
        "generated for offline",
        "generated for online",
    ]
    shown = figure.axes[2].get_legend_handles_labels()[1]
    assert shown == ["online", "generated online"]
    for kind in ("online", "synthetic_online"):
        run.samples.pop(kind)
    assert [ax.get_title("left") for ax in plots.tsne(run, points=40).axes] == ["generated for offline"]


def test_seconds_add_up_and_change_unit(tmp_path):
    run = read_run(write_run(tmp_path / "a"))
    figure = plots.seconds_per_phase([run, run])
    bars = [bar for bar in figure.axes[0].patches if bar.get_width() > 0]
    assert sum(bar.get_width() for bar in bars) == pytest.approx(2 * sum(run.summary["seconds"].values()))
    assert "358 s" in texts(figure)
    run.summary["seconds"]["refresh"] = 3600 * 10.0
    assert "wall-clock time (h)" in texts(plots.seconds_per_phase([run]))


def test_unknown_phases_are_not_lost(tmp_path):
    run = read_run(write_run(tmp_path / "a"))
    run.summary["seconds"]["compile"] = 100.0
    assert "compile" in plots.phase_seconds([run])
    assert "compile" in [text.get_text() for text in plots.seconds_per_phase([run]).legends[0].get_texts()]


def test_seed_scores_draw_every_episode(tmp_path):
    run = read_run(write_run(tmp_path / "a", seeds=4, episodes=7))
    ax = plots.seed_scores([run]).axes[0]
    points = np.concatenate([line.get_xdata() for line in ax.lines if line.get_marker() == "."])
    np.testing.assert_allclose(np.sort(points), np.sort(run.evaluations[-1].scores.ravel()))


def test_names_beside_dots_and_bars_never_meet(tmp_path):
    label = "IQL + StratDiff without guidance, learning_rate 0.0003, a"
    runs = read_runs([write_run(tmp_path / str(n), label=f"{label * (n % 3 + 1)} {n}") for n in range(7)])
    for figure in (plots.seed_scores(runs), plots.seconds_per_phase(runs)):
        FigureCanvasAgg(figure).draw()
        boxes = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert min(box.x0 for box in boxes) >= 0 and figure.axes[0].get_window_extent().width > 300


def test_equal_runs_give_equal_files(tmp_path):
    run = read_run(write_run(tmp_path / "a", samples=20))
    makers = (
        lambda: plots.learning_curves([run]),
        lambda: plots.seed_scores([run]),
        lambda: plots.seconds_per_phase([run]),
        lambda: plots.tsne(run, points=40),
    )
    for make in makers:
        first, second = (plots.save(make(), tmp_path / f"{i}.png").read_bytes() for i in range(2))
        assert first == second
