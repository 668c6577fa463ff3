"""Reading run folders: what is tolerated, and what is refused with the file's name."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import yaml
from fake_runs import SECONDS, write_run

from cfdg_jax.errors import UserError
from cfdg_jax.report import csvs
from cfdg_jax.report.groups import read_runs
from cfdg_jax.report.runs import going_on, read_run
from cfdg_jax.report.tables import all_tables, paired_difference
from cfdg_jax.training.lock import only_process


def edit_lines(path, change):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def edit_summary(folder, **changes):
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_curve_averages_episodes_and_keeps_seeds(tmp_path):
    run = read_run(write_run(tmp_path / "run", seeds=4, episodes=6))
    lines = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    online = [line for line in lines if line["phase"] == "online"]
    steps, scores = run.curve("online")
    assert steps.tolist() == [line["step"] for line in online]
    np.testing.assert_allclose(scores, np.mean([line["normalized_score"] for line in online], axis=-1))
    assert (run.seeds, run.evaluations[-1].episodes) == (4, 6)


def test_scores_may_be_means_over_episodes(tmp_path):
    run = read_run(write_run(tmp_path / "run", episodes=None))
    assert run.evaluations[0].returns.shape == (3, 1) and run.evaluations[0].episodes is None


def test_raw_returns_are_the_scores_without_a_reference(tmp_path):
    run = read_run(write_run(tmp_path / "run", normalized=False))
    assert not run.normalized
    np.testing.assert_array_equal(run.evaluations[0].scores, run.evaluations[0].returns)


@pytest.mark.parametrize(
    ("dataset", "origin"),
    [
        ("d4rl:hopper-medium-v2", "d4rl"),
        ("minari:D4RL/door/human-v2", "minari"),
        ("local:hopper-random-v0", "local"),
        ("/data/my:odd.hdf5", "file"),
        ("mine.hdf5", "file"),
    ],
)
def test_origin(tmp_path, dataset, origin):
    assert read_run(write_run(tmp_path / "run", dataset=dataset)).origin == origin


def test_equal_labels_are_told_apart_by_folder(tmp_path):
    runs = read_runs([write_run(tmp_path / name) for name in ("a", "b")] + [write_run(tmp_path / "c", label="PEX")])
    assert [run.label for run in runs] == ["IQL (a)", "IQL (b)", "PEX"]


def test_a_cut_last_line_is_left_out_with_a_warning(tmp_path):
    path = write_run(tmp_path / "run") / "evaluations.jsonl"
    whole = len(read_run(tmp_path / "run").evaluations)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.warns(UserWarning, match=r"evaluations\.jsonl: the last line is cut short"):
        run = read_run(tmp_path / "run")
    assert len(run.evaluations) == whole - 1
    assert run.notes == ("evaluations.jsonl: the last line is cut short and left out",)


def test_a_diverged_seed_is_named_and_leaves_the_statistics(tmp_path):
    path = write_run(tmp_path / "run", seeds=4) / "evaluations.jsonl"
    edit_lines(path, lambda lines: lines[3]["normalized_score"][2].__setitem__(0, None))
    run = read_run(tmp_path / "run")
    assert run.finite.tolist() == [True, True, False, True]
    assert run.curve("online")[1].shape[1] == 3 and run.curve("online", finite_only=False)[1].shape[1] == 4
    assert run.notes == ("seed 2 diverged: its score at offline step 8,000 is not finite; it is left out of all statistics",)  # fmt: skip # noqa: E501


def test_a_seed_that_failed_in_training_is_named(tmp_path):
    path = write_run(tmp_path / "run") / "summary.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"failed_seeds": {"8": ["online", 4000]}, "seeds": [7, 8, 9]})
    )
    run = read_run(tmp_path / "run")
    assert run.notes == ("seed 8 was no longer finite at online step 4,000; it is left out of all statistics",)
    assert run.numbers == [7, 8, 9] and run.finite.tolist() == [True, False, True]
    assert run.shown == "IQL (2 of 3 seeds)"


def test_a_run_without_a_dataset_is_named_by_its_task(tmp_path):
    path = write_run(tmp_path / "run", dataset="") / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task": "Hopper-v4"}))
    run = read_run(tmp_path / "run")
    assert (run.dataset, run.origin) == ("scratch:Hopper-v4", "scratch")


def test_a_lost_seed_has_no_scores_in_the_csv_from_where_it_was_lost(tmp_path):
    """Training looks at step 4,000 and before that at 1,000: what was played between them may be of lost parameters."""
    folder = write_run(tmp_path / "run")
    edit_summary(folder, failed_seeds={"1": ["online", 4000]})
    edit_lines(folder / "metrics.jsonl", lambda lines: lines.append({"phase": "online", "step": 1000}))
    rows = list(csv.DictReader(csvs.evaluations(read_runs([folder])).splitlines()))
    gone = [(row["phase"], int(row["step"])) for row in rows if row["return"] == row["normalized_score"] == ""]
    assert gone == [("online", step) for step in range(2000, 10001, 1000)]
    assert {row["seed"] for row in rows if row["return"] == ""} == {"1"}
    assert {(row["seed"], row["lost"]) for row in rows} == {("0", "False"), ("1", "True"), ("2", "False")}


def test_a_run_that_ended_early_says_where_why_and_what_continues_it(tmp_path):
    told = []
    for status in ("interrupted", "failed"):
        folder = write_run(tmp_path / f"{status} run", status=status)
        edit_summary(folder, phase="online", step=10_800, **({"error": "OSError: disk"} if status == "failed" else {}))
        told += read_run(folder).notes
    resume = f": its numbers are not final; `cfdg-jax train --resume '{tmp_path}/%s run'` continues it"
    assert told == [
        "the run was interrupted at online step 10,800" + resume % "interrupted",
        "the run failed at online step 10,800 (OSError: disk)" + resume % "failed",
    ]


def test_a_run_whose_process_is_gone_was_killed(tmp_path):
    folder = write_run(tmp_path / "run", status="running")
    assert going_on([folder]), "without a lock nobody can know"
    with only_process(folder):
        assert going_on([folder]) and read_run(folder).notes == ("the run goes on: its numbers are not final",)
    assert not going_on([folder])
    (note,) = read_run(folder).notes
    assert note.startswith("the run was killed after online step 10,000: ") and f"--resume {folder}`" in note


def test_a_run_without_an_evaluation_says_whether_to_wait_or_to_resume(tmp_path):
    folder = write_run(tmp_path / "a run", status="running")
    (folder / "evaluations.jsonl").write_text("")
    with only_process(folder), pytest.raises(UserError, match="holds no evaluation; let the run reach its first"):
        read_run(folder)
    with pytest.raises(
        UserError, match=r"holds no evaluation; finish the run with `cfdg-jax train --resume '.*a run'`"
    ):
        read_run(folder)


def test_refreshes_come_from_the_metrics(tmp_path):
    assert read_run(write_run(tmp_path / "run", refreshes=(0, 5000))).refreshes().tolist() == [0, 5000]


def test_generated_rows_that_are_not_finite_are_noted(tmp_path):
    path = write_run(tmp_path / "run", samples=8) / "samples.npz"
    rows = dict(np.load(path))
    rows["synthetic_online"][3, 2] = np.nan
    np.savez(path, **rows)
    run = read_run(tmp_path / "run")
    assert len(run.samples["synthetic_online"]) == 7 and len(run.samples["offline"]) == 8
    assert run.notes == ("1 of 8 synthetic_online rows are not finite and not drawn",)


def drop(name):
    return lambda folder: (folder / name).unlink()


def overwrite(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def status(value):
    def change(folder):
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | {"status": value}))

    return change


def changed_line(change):
    return lambda folder: edit_lines(folder / "evaluations.jsonl", change)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("summary.json"), "summary.json: is missing: not a finished run folder; finish the run with"),
        (drop("evaluations.jsonl"), "evaluations.jsonl: is missing"),
        (overwrite("summary.json", b'{"status": '), "summary.json: is not JSON"),
        (overwrite("summary.json", b"[1]"), "summary.json: holds no JSON object"),
        (overwrite("summary.json", b'{"label": "IQL"}'), "summary.json: `dataset` is None, not a text"),
        (status("odd"), "summary.json: status is 'odd': not finished; finish the run with"),
        (overwrite("config.yaml", b"a: [1"), "config.yaml: is not YAML"),
        (overwrite("config.yaml", b"- 1"), "config.yaml: holds no mapping"),
        (overwrite("evaluations.jsonl", b""), "evaluations.jsonl: holds no evaluation"),
        (overwrite("evaluations.jsonl", b"{\n{}\n"), "evaluations.jsonl, line 1: is not JSON"),
        (overwrite("evaluations.jsonl", b"3\n"), "evaluations.jsonl, line 1: is not a JSON object"),
        (overwrite("metrics.jsonl", b'{"phase": "offline"}\n'), "metrics.jsonl, line 1: has no step"),
        (changed_line(lambda lines: lines[1].update(phase="warmup")), "line 2: phase is 'warmup'; must be one of"),
        (changed_line(lambda lines: lines[1].update({"return": "high"})), "line 2: `return` is not a list"),
        (changed_line(lambda lines: lines[1].update({"return": [1.0, 2.0]})), "line 2: has other seeds"),
        (changed_line(lambda lines: lines[1].update(normalized_score=None)), "line 2: has other seeds or another kind"),
        (overwrite("samples.npz", b"PK\x03\x04 not a zip"), "samples.npz: cannot be read"),
    ],
)
def test_damage_is_refused_with_the_file_named(tmp_path, damage, message):
    folder = write_run(tmp_path / "run")
    damage(folder)
    with pytest.raises(UserError) as caught:
        read_run(folder)
    assert message in str(caught.value) and str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_folder_and_empty_list_are_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere: is not a folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no run folder was given"):
        read_runs([])


def test_fake_runs_are_like_real_ones(tmp_path):
    """The helper must write what the documented run folder holds, or these tests test nothing."""
    folder = write_run(tmp_path / "run", samples=4)
    assert set(yaml.safe_load((folder / "config.yaml").read_text())) >= {"hash"}
    assert set(json.loads((folder / "summary.json").read_text())) >= {"status", "dataset", "label", "seconds"}
    with np.load(folder / "samples.npz") as file:
        assert file["offline"].shape[1] == 2 * file["obs_dim"] + file["act_dim"] + 2


def test_lanes_of_different_values_are_runs_of_their_own(tmp_path):
    folder = write_run(tmp_path / "run", label="IQL", seeds=4, samples=4)
    (whole,) = read_runs([folder])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"vmap": {"agent.expectile": [0.9, 0.5]}}))
    summary = json.loads((folder / "summary.json").read_text())
    record = {"seeds": [5, 6, 5, 6], "lanes": [{"agent.expectile": v} for v in (0.9, 0.9, 0.5, 0.5)]}
    record["failed_seeds"] = {"6 at expectile 0.5": ["online", 400]}
    (folder / "summary.json").write_text(json.dumps(summary | record))
    runs = read_runs([folder])
    three, one = runs
    assert (three.label, one.label) == ("IQL, expectile 0.9", "IQL, expectile 0.5")
    assert three.seeds == one.seeds == 2
    assert three.config["agent"]["expectile"] == 0.9 and one.config["agent"]["expectile"] == 0.5
    assert three.samples and not one.samples  # the samples are of the first lane
    assert not three.notes and "seed 6 at expectile 0.5 was no longer finite" in one.notes[0]
    for part, index in ((three, [0, 1]), (one, [2, 3])):
        for a, b in zip(part.evaluations, whole.evaluations, strict=True):
            np.testing.assert_array_equal(a.scores, b.scores[index])
        assert part.metrics[0]["critic_loss"] == [0.5, 0.5] and part.summary["seeds"] == [5, 6]
    rows = list(csv.DictReader(csvs.evaluations(runs).splitlines()))
    assert {(row["label"], row["seed"], row["agent.expectile"]) for row in rows} == {
        (label, seed, label[-3:]) for label in ("IQL, expectile 0.9", "IQL, expectile 0.5") for seed in "56"
    }
    assert {row["agent.expectile"] for row in csv.DictReader(csvs.scores(runs).splitlines())} == {"0.9", "0.5"}
    assert three.finite.all() and one.finite.tolist() == [True, False]
    whole_seeds = dataclasses.replace(one, summary=one.summary | {"failed_seeds": {}})
    assert len(paired_difference(whole_seeds, three)) == 2
    # they share a folder, and must not share a row's numbers
    cells = [dict(zip(table.header, row, strict=True)) for table in all_tables([three, one])[:1] for row in table.rows]
    for part, row in zip((three, one), cells, strict=True):
        assert row["Last evaluation"].startswith(f"{part.curve('online')[1][-1].mean():.1f} ")
    assert cells[0]["Last evaluation"] != cells[1]["Last evaluation"]


def test_groups_of_seeds_are_shown_as_one_run(tmp_path):
    folders = []
    for first, name in ((0, "a"), (3, "b")):
        folder = write_run(tmp_path / name, refreshes=(5000,), lift=20.0 + first)
        edit = {"config.yaml": yaml.safe_load, "summary.json": json.loads}
        config, summary = (read((folder / file).read_text()) for file, read in edit.items())
        (folder / "config.yaml").write_text(yaml.safe_dump(config | {"first_seed": first, "seeds": 3, "hash": name}))
        failed = {"failed_seeds": {"4": ["online", 4000]}} if first else {}
        numbers = {"seeds": [first, first + 1, first + 2]}
        (folder / "summary.json").write_text(json.dumps(summary | numbers | failed))
        folders.append(folder)
    parts, (whole,) = [read_run(folder) for folder in folders], read_runs(folders)
    assert whole.label == "IQL" and whole.numbers == [0, 1, 2, 3, 4, 5] and whole.shown == "IQL (5 of 6 seeds)"
    curves = [part.curve("online", finite_only=False)[1] for part in (whole, *parts)]
    np.testing.assert_array_equal(curves[0], np.concatenate(curves[1:], axis=1))
    assert len(whole.metrics[-1]["loss"]) == 6 and whole.summary["seconds"]["offline"] == 2 * SECONDS["offline"]
    assert len(read_runs([folders[0], folders[0]])) == 2, "the same seeds twice are two runs"


@pytest.fixture
def group(tmp_path):
    """Writes a group of three seeds of a run of nine, as it stands after some of its evaluations."""

    def write(first, evaluations, status):
        (tmp_path / "groups.yaml").write_text("group: 3\nseeds: 9\n")
        folder = write_run(tmp_path / f"group-{first}", status=status)
        config = yaml.safe_load((folder / "config.yaml").read_text()) | {"first_seed": first, "seeds": 3}
        steps = {"offline": {"steps": 20_000}, "online": {"steps": 10_000}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config | steps))
        edit_summary(folder, seeds=[first, first + 1, first + 2])
        edit_lines(folder / "evaluations.jsonl", lambda lines: lines.__delitem__(slice(evaluations, None)))
        return folder

    return write


def test_unfinished_groups_of_seeds_say_where_the_numbers_stand(group, tmp_path):
    folders = [group(0, 21, "done"), group(3, 4, "interrupted")]
    (whole,) = read_runs(folders)
    note = "its groups of seeds are unfinished, 3 of 9 seeds are done; 3 have not begun; all numbers stand at offline "
    note += "step 8,000 of 20,000, which those that have begun have reached; `cfdg-jax train --resume "
    assert whole.notes[-1] == f"{note}{tmp_path}` continues them"
    (scores,) = all_tables([whole])
    assert "Offline end" not in scores.header and "Last evaluation" in scores.header
    (alone,) = read_runs(folders[:1])
    assert "3 of 9 seeds are done; 6 have not begun; all numbers stand at online step 10,000" in alone.notes[-1]
    assert "Offline end" in all_tables([alone])[0].header
    (done,) = read_runs([folders[0], *(group(first, 21, "done") for first in (6, 9))])
    assert not done.notes, "nine seeds"


@pytest.mark.parametrize(
    ("note", "told"),
    [
        ("seeds: 9\n", "`group` is None; must be a whole number of at least 1; restore it as the run wrote it"),
        ("group: 3\n", "`seeds` is None; must be a whole number of at least 1; restore it as the run wrote it"),
        ("group: 3\nseeds: many\n", "`seeds` is 'many'; must be a whole number"),
        ("", "holds no mapping; restore it or repeat the run"),
    ],
)
def test_a_damaged_note_of_groups_is_refused(group, tmp_path, note, told):
    folders = [group(0, 21, "done"), group(3, 4, "interrupted")]
    (tmp_path / "groups.yaml").write_text(note)
    for some in (folders, folders[:1]):
        with pytest.raises(UserError) as caught:
            read_runs(some)
        assert str(caught.value).startswith(f"{tmp_path / 'groups.yaml'}: {told}")


def test_groups_of_seeds_at_several_values_are_one_run_for_each_value(tmp_path):
    for name, seeds in (("a", [0, 1]), ("b", [2, 3])):
        folder = write_run(tmp_path / name, label="IQL", seeds=4)
        summary = json.loads((folder / "summary.json").read_text())
        lanes = [{"agent.expectile": value} for value in (0.5, 0.9) for _ in seeds]
        (folder / "summary.json").write_text(json.dumps(summary | {"seeds": seeds * 2, "lanes": lanes}))
    runs = read_runs([tmp_path / "a", tmp_path / "b"])
    assert [(run.label, run.numbers) for run in runs] == [
        ("IQL, expectile 0.5", [0, 1, 2, 3]),
        ("IQL, expectile 0.9", [0, 1, 2, 3]),
    ]
    assert all(run.finite.all() and run.seeds == 4 for run in runs)
