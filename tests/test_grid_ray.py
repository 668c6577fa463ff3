"""A sweep on a Ray cluster of two workers: the same table as in this process, also when a worker is lost."""

import csv
import os
import pathlib
import signal
import threading
import time

import pytest
from train_helpers import toy_config

from cfdg_jax.errors import UserError
from cfdg_jax.grid import cells
from cfdg_jax.report.groups import read_runs
from cfdg_jax.sweep import sweep
from cfdg_jax.training.progress import Interrupted
from cfdg_jax.training.results import read_summary

ray = pytest.importorskip("ray", reason="the grid over machines needs the extra ray")


@pytest.fixture(scope="module")
def cluster():
    """A head that runs nothing, and two workers of one processor each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def scores(page):
    with open(page.parent / "evaluations.csv", encoding="utf-8") as file:
        return sorted(tuple(v for k, v in row.items() if k != "folder") for row in csv.DictReader(file))


def at_first_under_way(made, act):
    """Calls `act` in a thread with the first folder whose run has a process and a checkpoint behind its first."""
    done = []

    def under_way(folder):
        lock = folder / ".lock"
        return lock.exists() and lock.read_text() and list(folder.glob("checkpoints/[1-9]*"))

    def wait():
        while not (found := [cell.folder for cell in made if under_way(cell.folder)]):
            time.sleep(0.02)
        act(found[0])
        done.append(found[0])

    threading.Thread(target=wait, daemon=True).start()
    return done


def test_ctrl_c_and_a_lost_worker_leave_the_table_of_one_process(cluster, tmp_path):
    # Twelve checkpoints online, so that a run under way is not done a moment later.
    configs = [toy_config("none", online__steps=480), toy_config("none", mix="uniform", online__steps=480)]
    here = sweep(configs, tmp_path / "here", progress=False, group=1)
    made = cells(configs, tmp_path / "there", 1)
    pressed = at_first_under_way(made, lambda folder: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        sweep(configs, tmp_path / "there", progress=False, on="ray", group=1)
    assert pressed and read_summary(pressed[0])["step"] > 0, "a cell under way is kept"
    left = [cell for cell in made if read_summary(cell.folder).get("status") != "done"]
    for cell in left:
        (cell.folder / ".lock").unlink(missing_ok=True)  # no process is in it any more
    killed = at_first_under_way(left, lambda folder: os.kill(int((folder / ".lock").read_text()), signal.SIGKILL))
    there = sweep(configs, tmp_path / "there", progress=False, on="ray", group=1)
    assert killed, "a worker was lost"
    assert scores(here) == scores(there) and len({row[0] for row in scores(here)}) == 1
    (whole,) = {row.label for row in read_runs([c.folder for c in cells(configs[:1], tmp_path / "there", 1)])}
    assert whole == "IQL", "two groups of seeds are one run"
    shared = [path for path in (tmp_path / "there").iterdir() if "pre-training" in path.name]
    assert len(shared) == 2, "one for each seed"


def test_a_cell_that_fails_is_named_and_the_others_are_done(cluster, tmp_path):
    configs = [toy_config("none"), toy_config("none", agent="td3bc")]
    bad, good = cells(configs, tmp_path)
    bad.folder.mkdir(parents=True)
    (bad.folder / "config.yaml").write_text("seeds: 1\n")
    with pytest.raises(UserError, match=r"IQL on local:toy.*failed: .*config\.yaml"):
        sweep(configs, tmp_path, progress=False, on="ray")
    assert '"status": "done"' in pathlib.Path(good.folder / "summary.json").read_text()
