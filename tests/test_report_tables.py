"""Tables: the right numbers, beside those they may be compared with."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from fake_runs import write_run

from cfdg_jax.report import csvs, stats, tables
from cfdg_jax.report.groups import read_runs


@pytest.fixture
def pair(tmp_path):
    return read_runs([write_run(tmp_path / "a"), write_run(tmp_path / "b", label="IQL + CFDG", lift=45)])


def numbers(run):
    """Offline and online curves `[T, S]` of a run, read again from the file without the package."""
    lines = [json.loads(line) for line in (run.path / "evaluations.jsonl").read_text().splitlines()]
    score = "return" if lines[0]["normalized_score"] is None else "normalized_score"
    return [np.mean([line[score] for line in lines if line["phase"] == phase], axis=-1) for phase in ("offline", "online")]  # fmt: skip # noqa: E501


def test_numbers_of_a_run(pair):
    offline, online = numbers(pair[0])
    got = tables.per_seed(pair[0])
    np.testing.assert_allclose(got["offline_end"], offline[-1])
    np.testing.assert_allclose(got["last"], online[-1])
    np.testing.assert_allclose(got["last_5"], online[-5:].mean(axis=0))
    np.testing.assert_allclose(got["best"], online.max(axis=0))
    np.testing.assert_allclose(got["gain"], online[-1] - offline[-1])
    np.testing.assert_allclose(got["regret"], 1 - (online[:-1] + online[1:]).mean(axis=0) / 200)
    assert "success" not in got


def test_a_mean_covers_only_what_generated_rows_could_change(pair):
    """Evaluations up to the first refresh of any method of the dataset are left out, for all of its methods."""
    base, other = pair
    steps, online = base.curve("online")
    made = lambda step: {"phase": "refresh", "step": step, "seconds": 1.0}
    at = int(steps[-3])
    late = dataclasses.replace(other, metrics=[made(at), made(int(steps[-2]))])
    assert tables.first_refreshes([base, late]) == {base.dataset: at}
    assert tables.first_refreshes([base]) == {base.dataset: -1}
    np.testing.assert_allclose(tables.per_seed(base, at)["last_5"], online[-2:].mean(axis=0))
    assert "last_5" not in tables.per_seed(base, int(steps[-1]))
    (table, _) = tables.all_tables([base, late])
    shown = [dict(zip(table.header, row, strict=True))["Mean of last 5"] for row in table.rows]
    expected = [run.curve("online")[1][-2:].mean() for run in (base, late)]
    assert [cell.split(" ")[0] for cell in shown] == [f"{value:.1f}" for value in expected]
    apart = (other.curve("online")[1] - online)[-2:].mean(axis=0)
    np.testing.assert_allclose(tables.paired_difference(late, base, "last_5", at), apart)


def test_table_prints_mean_interval_and_deviation(pair):
    (table, comparison) = tables.all_tables(pair)
    row = dict(zip(table.header, table.rows[0], strict=True))
    last = numbers(pair[0])[1][-1]
    assert row["Last evaluation"] == f"{last.mean():.1f} [{last.min():.1f}, {last.max():.1f}]"
    assert row["± SD"] == f"{last.std(ddof=1):.1f}"
    assert (row["Dataset"], row["Method"], row["Seeds"], row["Episodes"]) == (pair[0].dataset, "IQL", "3", "10")
    assert table.rows[1][:2] == ("", "IQL + CFDG")
    (compared,) = comparison.rows
    assert compared[:2] == (pair[0].dataset, "IQL + CFDG over IQL") and compared[4] == "1.00 [1.00, 1.00]"
    apart = numbers(pair[1])[1] - numbers(pair[0])[1]
    for shown, differences in zip(compared[2:4], (apart[-1], apart[-5:].mean(axis=0)), strict=True):
        assert shown == f"{differences.mean():.1f} [{differences.min():.1f}, {differences.max():.1f}]"


def test_a_method_is_compared_with_the_first_and_with_those_its_label_begins_with(tmp_path):
    labels = ("IQL", "CalQL", "CalQL + StratDiff", "CalQL + StratDiff by lot", "CalQLX")
    table = tables.comparison_table("local", read_runs([write_run(tmp_path / label, label=label) for label in labels]))
    assert [row[1] for row in table.rows] == [
        "CalQL over IQL", "CalQL + StratDiff over IQL", "CalQL + StratDiff over CalQL",
        "CalQL + StratDiff by lot over IQL", "CalQL + StratDiff by lot over CalQL",
        "CalQL + StratDiff by lot over CalQL + StratDiff", "CalQLX over IQL",
    ]  # fmt: skip


def test_origins_and_kinds_of_score_never_share_a_table(tmp_path):
    runs = read_runs(
        [
            write_run(tmp_path / "a", dataset="local:hopper-medium-v0"),
            write_run(tmp_path / "b", dataset="d4rl:hopper-medium-v2"),
            write_run(tmp_path / "c", dataset="local:toy-v0", normalized=False),
            write_run(tmp_path / "d", dataset="local:hopper-random-v0"),
            write_run(tmp_path / "e", dataset="local:hopper-random-v0", label="PEX"),
            write_run(tmp_path / "f", dataset="d4rl:hopper-medium-v2", label="PEX"),
        ]
    )
    every = tables.all_tables(runs)
    for table in every:
        text = tables.to_markdown(table)
        assert ("local:hopper" in text) + ("d4rl:hopper" in text) + ("local:toy" in text) <= 1, text
        assert table.title.startswith("d4rl") == ("d4rl:" in text or table.rows[0][0] == "d4rl")
    local, raw = every[0], next(table for table in every if "toy" in str(table.rows))
    assert any("must not be compared with D4RL's" in note for note in local.notes)
    assert raw.title == "local: raw return" and "Regret" not in raw.header
    assert any("no normalised score" in note for note in raw.notes)


def test_no_normalised_score_is_printed_without_a_reference(tmp_path):
    runs = read_runs([write_run(tmp_path / "a", normalized=False)])
    last = numbers(runs[0])[1][-1]
    (table,) = tables.all_tables(runs)
    assert dict(zip(table.header, table.rows[0], strict=True))["Last evaluation"].startswith(f"{last.mean():.1f} ")
    assert "normalized_score" not in csvs.scores(runs)


def test_two_seeds_have_no_interval_and_one_no_deviation(tmp_path):
    runs = read_runs([write_run(tmp_path / "a", seeds=2), write_run(tmp_path / "b", seeds=1, label="PEX")])
    table = tables.all_tables(runs)[0]
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert all(row["Last evaluation"].endswith(" [undefined]") for row in rows)
    assert rows[0]["± SD"] != tables.MISSING and rows[1]["± SD"] == tables.MISSING
    assert any("fewer than 3 seeds" in note for note in table.notes)


def test_offline_only_run_has_no_gain(tmp_path):
    (table,) = tables.all_tables(read_runs([write_run(tmp_path / "a", online=False)]))
    assert "Gain" not in table.header and "Regret" not in table.header
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert row["Last evaluation"] == row["Offline end"]


def test_aggregates_need_every_dataset(tmp_path):
    names = ("d4rl:hopper-medium-v2", "d4rl:walker2d-medium-v2")
    folders = [write_run(tmp_path / f"iql{i}", dataset=name, seeds=3 + i) for i, name in enumerate(names)]
    runs = read_runs([*folders, write_run(tmp_path / "pex", dataset=names[0], label="PEX")])
    table = tables.all_tables(runs)[-1]
    assert table.title == "d4rl: over all datasets"
    assert [row[:2] for row in table.rows] == [("IQL", "2")]
    strata = [numbers(run)[1][-1] for run in runs[:2]]
    pooled = np.sort(np.concatenate(strata))
    assert table.rows[0][2] == "7"
    assert table.rows[0][3].startswith(f"{pooled[1:-1].mean():.1f} [")
    assert table.rows[0][4].startswith(f"{np.concatenate(strata).mean():.1f} [")


def test_diverged_seed_is_counted_and_explained(tmp_path):
    folder = write_run(tmp_path / "a", seeds=4)
    text = (folder / "evaluations.jsonl").read_text().splitlines()
    line = json.loads(text[-1])
    line["normalized_score"][1] = [float("nan")] * 10
    (folder / "evaluations.jsonl").write_text("\n".join([*text[:-1], json.dumps(line)]))
    (table,) = tables.all_tables(read_runs([folder]))
    assert table.rows[0][1:3] == ("IQL (3 of 4 seeds)", "3 of 4")
    assert any("seed 1 diverged: its score at online step 10,000" in note for note in table.notes)


def test_all_seeds_diverged_prints_dashes(tmp_path):
    folder = write_run(tmp_path / "a")
    line = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[0])
    line["normalized_score"] = [[None] * 10] * 3
    (folder / "evaluations.jsonl").write_text(json.dumps(line))
    (table,) = tables.all_tables(read_runs([folder]))
    assert table.rows[0][2:] == ("0 of 3", "10", tables.MISSING, tables.MISSING, tables.MISSING, tables.MISSING)


def test_success_is_shown_in_per_cent_for_all_runs_of_a_dataset_where_any_has_one(tmp_path):
    some = [[True, False, False, False], [True] * 4, [False] * 4]
    folders = []
    for label, dataset, success in (("IQL", "d4rl:a-v0", some), ("PEX", "d4rl:a-v0", [[False] * 4] * 3),
                                    ("IQL", "d4rl:b-v0", [[False] * 4] * 3)):  # fmt: skip
        folder = write_run(tmp_path / f"{label}{dataset[-4]}", label=label, dataset=dataset, episodes=4)
        lines = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
        (folder / "evaluations.jsonl").write_text("\n".join(json.dumps(line | {"success": success}) for line in lines))
        folders.append(folder)
    table = tables.all_tables(read_runs(folders))[0]
    shown = [row[table.header.index("Success")] for row in table.rows]
    assert shown == ["41.7 [0.0, 100.0]", "0.0 [0.0, 0.0]", tables.MISSING]
    assert "Success" not in tables.all_tables(read_runs(folders[1:]))[0].header


def test_markdown_and_csv_carry_the_same_cells(pair):
    table = tables.all_tables(pair)[0]
    markdown = tables.to_markdown(table)
    grid = [line for line in markdown.splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in (grid[0], *grid[2:])] == [
        list(row) for row in (table.header, *table.rows)
    ]
    rows = list(csv.DictReader(io.StringIO(csvs.scores(pair))))
    last = next(row for row in rows if row["number"] == "last" and row["label"] == "IQL + CFDG")
    seeds = list(csv.DictReader(io.StringIO(csvs.seeds(pair))))
    seeds = [row for row in seeds if row["number"] == "last" and row["label"] == "IQL + CFDG"]
    assert [row["seed"] for row in seeds] == ["0", "1", "2"]
    scores = np.array([float(row["value"]) for row in seeds])
    np.testing.assert_array_equal(scores, tables.per_seed(pair[1])["last"])
    assert float(last["mean"]) == pytest.approx(scores.mean()) and float(last["iqm"]) == pytest.approx(
        stats.iqm(scores)
    )


def test_a_bar_in_a_label_does_not_break_markdown(tmp_path):
    (table,) = tables.all_tables(read_runs([write_run(tmp_path / "a", label="IQL|x")]))
    assert "IQL\\|x" in tables.to_markdown(table)
