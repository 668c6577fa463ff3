"""A run that memory does not hold, made in groups of its seeds: how many, where, and how it goes on."""

import pytest
from train_helpers import TOY, toy_config

from cfdg_jax import grid
from cfdg_jax.cli import main
from cfdg_jax.core import machine
from cfdg_jax.errors import UserError
from cfdg_jax.fields import to_yaml
from cfdg_jax.report.groups import read_runs
from cfdg_jax.report.runs import runs_in
from cfdg_jax.training import memory
from cfdg_jax.training.memory import SHARED, TooLarge
from cfdg_jax.training.progress import Interrupted, Progress

pytestmark = pytest.mark.usefixtures("programs_are_shared")

SHORT = ["--preset", "smoke", "--offline.steps", "4", "--online.steps", "0", "--evaluate.episodes", "1"]


@pytest.mark.parametrize(
    ("seeds", "unit", "group", "words"),
    [
        (50, 1, 17, "50 seeds need 5,100 MB of 2,105; trained in 3 groups of 17, 17 and 16"),
        (40, 1, 20, "40 seeds need 4,100 MB of 2,105; trained in 2 groups of 20 and 20"),
        (48, 8, 16, "48 seeds need 4,900 MB of 2,105; trained in 3 groups of 16, 16 and 16"),
        (1000, 1, 20, "1000 seeds need 100,100 MB of 2,105; trained in 50 groups of at most 20"),
        (21, 21, 0, ""),
    ],
)
def test_as_few_groups_as_fit_and_all_alike(seeds, unit, group, words, monkeypatch):
    """100 MB a seed beside 100 MB, where twenty seeds fit; all devices share the lanes of a group."""
    monkeypatch.setattr(memory, "available_mb", lambda: 2_105 / 0.9)
    with pytest.raises(TooLarge) as error:
        memory._require_fit({SHARED: 100.0, "rings": 100.0 * seeds}, seeds, unit, Progress(False))
    assert (error.value.group, error.value.groups) == (group, words)


@pytest.mark.parametrize(
    ("plan", "seeds", "group", "settings", "remedy"),
    [
        ({"online rings": 99.0, "agent": 1.0}, 1, 0, 1, "use a smaller --online.capacity or a machine"),
        ({"agent": 40.0, "update": 60.0}, 1, 0, 2, "use fewer --vmap values, smaller networks or --mix.batch_size, sm"),
        ({"evaluation": 9.0}, 4, 2, 1, "makes; or fewer --seeds, fewer --evaluate.episodes or a machine with more"),
        ({SHARED: 90.0, "agent": 1.0}, 4, 0, 1, "use a dataset of fewer rows or a machine with more memory"),
    ],
)
def test_what_is_advised_helps(plan, seeds, group, settings, remedy):
    assert remedy in str(TooLarge(plan, 50.0, seeds, group, settings))


@pytest.mark.parametrize(
    ("note", "told"),
    [
        ("group: some\n{config}", "its first line is 'group: some'; must be `group: N`, the most seeds of a group"),
        ("{config}", "its first line is 'hash: "),
        ("group: 0\n{config}", "its first line is 'group: 0'"),
        ("group: 2\n", "is not a mapping of config fields; restore the file as the run wrote it"),
        ("group: 2\n{config}more: 1\n", r"groups\.yaml: more: is no config field"),
        ("group: 2\n{other}", "was changed since the run began .*; restore it"),
        ("group: 2\n\udcff", "is not UTF-8 text"),
    ],
)
def test_a_damaged_note_of_groups_is_told(note, told, tmp_path):
    config = to_yaml(toy_config("none"))
    text = note.format(config=config, other=config.replace("seeds: 2", "seeds: 3"))
    (tmp_path / grid.GROUPS).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=told) as error:
        grid.begun_groups(tmp_path)
    assert error.value.field.startswith(str(tmp_path / grid.GROUPS)) and error.value.remedy


def test_a_note_of_other_groups_than_those_made_is_told(tmp_path):
    config = toy_config("none", seeds=4)
    for cell in grid.cells([config], tmp_path, 2):
        cell.folder.mkdir()
        (cell.folder / "config.yaml").touch()
    for size in (2, 4):
        (tmp_path / grid.GROUPS).write_text(f"group: {size}\n{to_yaml(config)}")
        if size == 2:
            assert len(grid.begun_groups(tmp_path)[1]) == 2
    with pytest.raises(UserError, match="groups of 4 seeds are not those in the folder; restore it"):
        grid.begun_groups(tmp_path)


@pytest.fixture
def machine_of(tmp_path, monkeypatch):
    """Makes a machine with 2,048 MB free whose groups of processes have the given files."""

    def make(own="", files=None):
        for path, text in {"meminfo": MEMINFO, "cgroup": own, **(files or {})}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
        monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(machine, "GROUPS", tmp_path / "groups")

    return make


MEMINFO = "MemFree:          100000 kB\nMemAvailable:    2000000 kB\nHugePages_Total:       0\n"


def test_what_caches_hold_counts_as_free(machine_of, monkeypatch):
    machine_of()
    assert memory.available_mb() == 2048
    machine.MEMINFO.unlink()
    assert memory.available_mb() > 0


def group(limit, used, cached, files=machine.SECOND):
    values = f"{limit}\n", f"{used}\n"
    return dict(zip(files, values, strict=False)) | {"memory.stat": f"anon 5\n{files[2]} {cached}\n"}


@pytest.mark.parametrize(
    ("own", "groups", "free"),
    [
        ("0::/job/task\n", {"job": group(900_000_000, 700_000_000, 300_000_000), "job/task": group("max", 1, 0)}, 500),
        ("0::/\n", {".": group(900_000_000, 700_000_000, 0)}, 200),  # a container sees its own group as the root
        ("9:name=systemd:/\n4:memory:/job\n0::/\n", {"memory/job": group(9**9, 0, 0, machine.FIRST)}, 9**9 / 1e6),
        (
            "4:memory:/job\n",
            {"memory": group(2**63 - 4096, 5, 0, machine.FIRST)},
            2048,
        ),  # how the first version says none
        ("0::/job\n", {"job": group(10**9, "?", 0)}, 2048),
    ],
)
def test_a_container_s_limit_is_what_a_run_may_take(own, groups, free, machine_of):
    files = {f"groups/{path}/{name}": text for path, files in groups.items() for name, text in files.items()}
    machine_of(own, files)
    assert memory.available_mb() == pytest.approx(free)


def test_a_run_that_does_not_fit_is_trained_in_groups_and_goes_on_with_them(tmp_path, monkeypatch, capsys):
    out, sizes, train = tmp_path / "run", {}, grid.train
    plan = memory._require_fit
    note = lambda plan, seeds, *_: sizes.__setitem__(seeds, sum(plan.values()))
    command = ["train", "--dataset", TOY, *SHORT, "--quiet", "--out", str(out), "--seeds"]
    monkeypatch.setattr(memory, "_require_fit", note)
    for seeds in ("1", "2"):
        assert main([*command, seeds, "--dry-run"]) == 0
    monkeypatch.setattr(memory, "_require_fit", plan)
    monkeypatch.setattr(memory, "available_mb", lambda: (sizes[1] + sizes[2]) / 2 / 0.9)
    capsys.readouterr()
    assert main([*command, "2", "--dry-run"]) == 0
    assert "trained in 2 groups of 1 and 1\n" in capsys.readouterr().out

    def stopped(config, *args, **kwargs):
        if config.first_seed == 1:
            raise Interrupted
        return train(config, *args, **kwargs)

    monkeypatch.setattr(grid, "train", stopped)
    assert main([*command, "2"]) == 130
    assert f"continue with: cfdg-jax train --resume {out}" in capsys.readouterr().err
    monkeypatch.setattr(grid, "train", train)
    assert main(["train", "--resume", str(out), "--dry-run"]) == 0
    groups = [line for line in capsys.readouterr().out.splitlines() if line.startswith("group ")]
    assert [line.partition(", ")[2].partition(": ")[2].partition(", ")[2] for line in groups] == [
        "done; kept: the checkpoint at offline step 4",
        "not begun",
    ]
    monkeypatch.setattr(memory, "available_mb", lambda: 1e6)  # however much there is now, the groups stay
    first = runs_in(out)
    written = {path: path.stat().st_mtime_ns for path in first[0].rglob("*")}
    assert main(["train", "--quiet", "--resume", str(out)]) == 0
    told = capsys.readouterr().out
    assert f"done: {out}  (2 groups" in told and f"next: cfdg-jax report {out}, or cfdg-jax evaluate {first[0]}" in told
    assert written == {path: path.stat().st_mtime_ns for path in first[0].rglob("*")}
    assert main(["train", "--resume", str(first[0]), "--dry-run"]) == 0
    assert "so far        done; kept: the checkpoint at offline step 4; " in capsys.readouterr().out
    (run,) = read_runs(runs_in(out))
    assert run.numbers == [0, 1] and run.evaluations[-1].returns.shape == (2, 1)
    assert main([*command, "2"]) == 2 and f"is not empty; continue it with --resume {out}" in capsys.readouterr().err
    assert main(["evaluate", str(out)]) == 2 and "holds groups of seeds" in capsys.readouterr().err
    (out / "groups.yaml").unlink()
    assert main(["evaluate", str(out)]) == 2
    assert f"(no config.yaml); name a folder that a run wrote, such as {min(runs_in(out))}" in capsys.readouterr().err


def test_a_sweep_parts_what_does_not_fit_and_shares_pre_training_by_group(tmp_path, monkeypatch):
    made = []

    def run(folder, config, offline_from, progress):
        if config.seeds > 2:
            raise TooLarge({"rings": 1.0}, 1.0, config.seeds, 2)
        made.append((config.first_seed, config.seeds, folder, offline_from))

    monkeypatch.setattr(grid, "run_or_continue", run)
    grid.run_here(grid.cells([toy_config("none", seeds=3), toy_config("cfdg", seeds=3)], tmp_path), progress=False)
    assert [each[:2] for each in made] == [(0, 2), (2, 1)] * 2
    assert [each[3] for each in made] == [None, None, made[0][2], made[1][2]]
    assert len({each[2].parent for each in made}) == 2
    with pytest.raises(TooLarge):
        grid.in_groups(grid.Cell(toy_config("none"), tmp_path), TooLarge({"rings": 1.0}, 1.0, 1, 0), Progress(False))
    assert not (tmp_path / grid.GROUPS).exists()
