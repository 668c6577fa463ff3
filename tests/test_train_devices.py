"""Lanes over simulated devices: the numbers of one, memory that falls, no word between lanes."""

from unittest import mock

import many_devices
import numpy as np
import pytest
from train_helpers import toy_config

from cfdg_jax.cli import main
from cfdg_jax.errors import UserError
from cfdg_jax.fields import config_hash, from_yaml, to_yaml
from cfdg_jax.training.devices import mesh_of, told

COUNTS = ("1", "2", "8")
"""All lanes on one device, some on each, and one on each."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return many_devices.found(tmp_path_factory.mktemp("devices"), COUNTS[1:-1])


def test_every_number_of_devices_gives_the_same_numbers(found):
    one = found["outcomes"]["1"]
    assert len(one["metrics"]) > 20 and all(len(value) == 8 for value in one["metrics"].values())
    for count in COUNTS[1:]:
        other = found["outcomes"][count]
        for name, value in one["metrics"].items():
            np.testing.assert_allclose(other["metrics"][name], value, rtol=2e-2, atol=2e-2, err_msg=f"{count} {name}")
        np.testing.assert_allclose(other["made"], one["made"], rtol=1e-2)


def test_products_are_counted_on_all_devices(found):
    assert {found["outcomes"][count]["flop"] for count in COUNTS} == {found["outcomes"]["1"]["flop"]}


def test_no_device_waits_for_another(found):
    for count in COUNTS:
        assert found["outcomes"][count]["collectives"] == {"offline": [], "fit": [], "online": []}, count


def test_each_device_holds_its_lanes_and_one_copy_of_the_rows(found):
    for count in COUNTS:
        shards, devices = found["outcomes"][count]["shards"], int(count)
        whole = found["outcomes"]["1"]["shards"]
        assert shards["ring"] == [whole["ring"][0] // devices] * devices
        assert shards["critic"] == [whole["critic"][0] // devices] * devices
        assert shards["rows"] == whole["rows"] * devices
    for program in ("offline", "fit", "online"):  # less the rows, of which each has a copy
        sizes = [found["outcomes"][count]["memory"][program] - whole["rows"][0] for count in COUNTS]
        assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.8 * sizes[0], (program, sizes)


def test_the_devices_of_one_lane_share_its_generator(found):
    one, many = found["spread"]["1"], found["spread"]["8"]
    for part, near in (("refreshed", 1e-5), ("pretrained", 1e-4)):
        for name, theirs in one[part].items():
            for ours, arrays in zip(many[part][name], theirs, strict=True):
                apart, most = np.abs(np.subtract(ours, arrays)), np.abs(arrays).max()
                assert np.quantile(apart, 0.999) <= near * most, (part, name)
                # Moments are linear in the gradients; of one that is rounding alone Adam makes a whole step.
                assert apart.max() <= (10 if name == "weights" else 1) * near * most, (part, name)
    assert many["collectives"]["fit"] == ["all-reduce"]  # of gradients and the loss
    assert many["collectives"]["generate"] == ["all-gather"]  # of the rows that are made, at the end
    assert many["collectives"]["offline"] == []  # agents are updated everywhere alike
    assert many["memory"]["generate"] < 0.5 * one["memory"]["generate"]


def test_the_memory_plan_counts_what_devices_of_one_lane_hold_in_copies(found):
    one, many = found["spread"]["1"]["plan"], found["spread"]["8"]["plan"]
    of_one_lane = {"generating": 1, "offline rows, shared": 8}  # simulated devices are of one memory
    assert many == pytest.approx({name: of_one_lane.get(name, 4) * value for name, value in one.items()})


def test_a_checkpoint_goes_on_with_another_number_of_devices(found):
    whole, resumed = found["resumed"]["whole"], found["resumed"]["resumed"]
    assert [(line["phase"], line["step"]) for line in whole] == [(line["phase"], line["step"]) for line in resumed]
    for mine, theirs in zip(resumed, whole, strict=True):
        np.testing.assert_allclose(mine.get("value_loss", []), theirs.get("value_loss", []), rtol=0.05, atol=0.01)


def test_a_run_says_on_how_many_devices_it_trains(found):
    assert found["spread"]["8"]["told"] == "devices: 2 lanes on 8, 4 for each"
    assert found["spread"]["1"]["told"].startswith("memory plan: ")
    assert found["resumed"]["devices"] == [1, 8]


def test_devices_are_no_value_of_a_run():
    plain, config = toy_config(), toy_config(devices=2)
    assert config.devices == "2" and config_hash(config) == config_hash(plain)
    assert from_yaml(to_yaml(config)) == plain  # so that the run is read, evaluated and resumed anywhere
    assert mesh_of(plain) is None  # one device on CPU, unless more are asked for


def test_what_a_number_of_devices_means(monkeypatch):
    monkeypatch.setattr("jax.local_devices", lambda: [mock.Mock(platform="gpu", id=i) for i in range(8)])
    meshes = lambda devices, *seeds: [mesh_of(toy_config(devices=devices, seeds=each)) for each in seeds]
    shapes = lambda devices, *seeds: [mesh.devices.shape if mesh else None for mesh in meshes(devices, *seeds)]
    assert shapes("all", 1, 2, 3, 5, 8, 12) == [(1, 8), (2, 4), (3, 2), (5, 1), (8, 1), (6, 1)]
    assert shapes("auto", 1, 2, 3, 16) == [None, (2, 1), (3, 1), (8, 1)]
    assert shapes("4", 2) == [(2, 2)]
    with pytest.raises(UserError, match="is 3 for 2 lanes; must divide them or be a multiple of them, such as 8"):
        mesh_of(toy_config(devices=3, seeds=2))


def test_fewer_devices_than_all_are_told(monkeypatch):
    monkeypatch.setattr("jax.local_devices", lambda: [mock.Mock(platform="gpu", id=i) for i in range(2)])
    words = lambda devices, seeds: told(config := toy_config(devices=devices, seeds=seeds), mesh_of(config))
    assert words("all", 3) == "3 lanes on 1, 3 on each; of 2, which 3 lanes do not share evenly"
    assert words("all", 4) == "4 lanes on 2, 2 on each"
    assert words("auto", 3) == words("1", 3) == ""


@pytest.mark.parametrize("seeds", [3, 4])
def test_a_sweep_refuses_devices_before_its_first_run(seeds, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jax.local_devices", lambda: [mock.Mock(platform="cpu", id=i) for i in range(2)])
    fields = f"fields: {{devices: 2, dataset: 'local:hopper-medium-v0', seeds: {seeds}}}"
    (tmp_path / "one.yaml").write_text(f"{fields}\nruns: [{{agent: iql}}]")
    words = ["sweep", str(tmp_path / "one.yaml"), "--out", str(tmp_path / "runs")]
    refused = "error: devices: is 2 for 3 lanes; must divide them or be a multiple of them, such as 1"
    for command in [words] * (seeds == 3) + [[*words, "--dry-run"]]:
        assert main(command) == (2 if seeds == 3 else 0)
        assert (refused in capsys.readouterr().err) == (seeds == 3)
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_looks_at_the_devices_that_a_resumed_run_is_given(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(to_yaml(toy_config(seeds=1)))
    assert main(["train", "--resume", str(tmp_path), "--devices", "99", "--dry-run"]) == 2
    assert "error: devices: is 99 and there are 1 here; use fewer, or all" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("devices", "said"), [("0", "a number of devices"), ("some", "a number of devices"), ("99", "there are")]
)
def test_devices_that_cannot_be_are_refused(devices, said):
    with pytest.raises(UserError, match=said) as error:
        mesh_of(toy_config(devices=devices))
    assert error.value.field == "devices"
