"""`--share I/N`: one of several machines trains its part of the seeds."""

import json

import pytest
from train_helpers import TOY

from cfdg_jax.cli import main
from cfdg_jax.errors import UserError
from cfdg_jax.grid import share
from cfdg_jax.presets import make_config
from cfdg_jax.report.groups import read_runs

SHORT = ["--preset", "smoke", "--offline.steps", "4", "--online.steps", "0", "--evaluate.episodes", "1"]


def test_shares_are_folders_of_their_own_and_one_run_in_a_report(tmp_path, capsys):
    words = ["train", "--dataset", TOY, *SHORT, "--seeds", "4", "--quiet", "--out", str(tmp_path / "run")]
    for part in ("0/2", "1/2"):
        assert main([*words, "--share", part]) == 0, capsys.readouterr().err
    folders = [tmp_path / "run" / f"share-{index}" for index in range(2)]
    assert [json.loads((each / "summary.json").read_text())["seeds"] for each in folders] == [[0, 1], [2, 3]]
    (run,) = read_runs(folders)
    assert run.numbers == [0, 1, 2, 3] and run.evaluations[-1].returns.shape == (4, 1)
    assert main(["train", "--resume", str(folders[0]), "--share", "0/2"]) == 2
    assert "--share: cannot change on --resume" in capsys.readouterr().err


def test_shares_are_equal_and_cover_the_seeds():
    config = make_config(TOY, preset="smoke", seeds=6, first_seed=10)
    parts = [share(config, f"{index}/3") for index in range(3)]
    assert [(part.first_seed, part.seeds) for part in parts] == [(10, 2), (12, 2), (14, 2)]
    with pytest.raises(UserError, match=r"^seeds: is 6 for 4 shares; make it a multiple of 4"):
        share(config, "0/4")


@pytest.mark.parametrize("part", ["2", "2/2", "a/2", "0/0", "/2", "-1/2"])
def test_parts_that_cannot_be_are_refused(part):
    with pytest.raises(UserError, match=r"^--share: is .* must be INDEX/COUNT"):
        share(make_config(TOY, preset="smoke"), part)
