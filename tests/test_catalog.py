"""What the catalogue reads from the source is what the imported registries and configs say."""

import dataclasses
import typing

import pytest
from settings import learns_values

from cfdg_jax import catalog, tasks
from cfdg_jax.config import MINIMA, REGISTRIES, TrainConfig
from cfdg_jax.data.names import dataset_names, split_name
from cfdg_jax.envs.registry import _TOYS, task_names
from cfdg_jax.errors import UserError
from cfdg_jax.fields import leaf_paths
from cfdg_jax.values import require_range

METHODS = [(choice, name) for choice, entries in REGISTRIES.items() for name in entries]


@pytest.mark.parametrize(("choice", "name"), METHODS)
def test_a_method_is_read_as_it_is_registered(choice, name):
    entry, read = REGISTRIES[choice][name], catalog.methods(choice)[name]
    assert (read.about, read.variants) == (entry.about, tuple(entry.variants))
    config, hints = entry.config(), typing.get_type_hints(entry.config)
    fields = catalog.method_fields(choice, name)
    assert [field.path for field in fields.values()] == [f"{choice}.{f.name}" for f in dataclasses.fields(config)]
    for field in dataclasses.fields(config):
        read_field = fields[f"{choice}.{field.name}"]
        assert read_field.annotation == hints[field.name]
        assert eval(read_field.default) == getattr(config, field.name)


def test_registries_are_read_whole_and_in_their_order():
    assert {choice: list(entries) for choice, entries in REGISTRIES.items()} == {
        choice: list(catalog.methods(choice)) for choice in catalog.LISTS
    }


def test_the_fields_of_a_run_are_read_as_they_are():
    plain = {path: value for path, value in leaf_paths(TrainConfig()).items() if path.split(".")[0] not in REGISTRIES}
    read = catalog.run_fields()
    assert sorted(read) == sorted(plain)
    assert {path: eval(field.default) for path, field in read.items()} == plain
    assert catalog.least() == MINIMA


def test_every_field_has_a_meaning_and_it_may_take_two_lines():
    fields = [field for each in METHODS for field in catalog.method_fields(*each).values()]
    fields += catalog.run_fields().values()
    assert not [field.path for field in fields if not field.meaning]
    inherited = catalog.method_fields("agent", "calql")["agent.penalty_weight"]
    assert (inherited.default, inherited.meaning) == ("5.0", "of the regulariser")
    continued = catalog.method_fields("agent", "iql")["agent.free_target"].meaning
    assert "twin" in continued and "sampled" in continued


def test_the_table_of_environments_names_those_there_are():
    assert list(tasks.TASKS) == task_names()
    assert all(split_name(name)[0] in ("d4rl", "local") for name in dataset_names())
    assert not [task for task in tasks.TASKS if tasks.has_picture(task) == (task in _TOYS)]
    assert not tasks.has_picture("gym:Pendulum-v1")


def test_a_method_cites_its_own_section_and_a_field_its_line():
    of = {name: catalog.methods(choice)[name].sources for choice, name in METHODS}
    for name in ("edis", "cfdg", "synther", "a3rl", "calql"):
        assert f"docs/algorithms.md#{name}" in of[name]
    assert not [name for name in of if not of[name] and name != "none"]
    path, _, line = catalog.method_fields("agent", "iql")["agent.expectile"].place.partition(":")
    assert "expectile" in (catalog.PACKAGE.parent / path).read_text().splitlines()[int(line) - 1]


def test_a_field_of_another_method_is_told_to_whom_it_belongs():
    assert catalog.instead("agent.alpha", []) == "it belongs to --agent td3bc or apl_td3bc"
    assert "did you mean online.steps" in catalog.instead("online.step", catalog.run_fields())


def test_a_room_or_a_field_is_selected_and_an_unknown_one_refused():
    assert [field.path for field in catalog.select("agent.expectile", {})] == ["agent.expectile"]
    assert {field.path for field in catalog.select("offline", {})} == {"offline.steps", "offline.updates_per_call"}
    assert len(catalog.select("fields", {})) == len(catalog.fields({}))
    with pytest.raises(UserError, match=r"agent\.expectle: is no config field; did you mean agent\.expectile"):
        catalog.select("agent.expectle", {})


OUTSIDE = {
    "unit": 2.0, "inside": 1.0, "rate": 0.0, "below_one": 1.0, "positive": 0.0, "not_negative": -1.0, "at_least_one": 0,
    "at_least_two": 1, "widths": 0,
}  # fmt: skip


@pytest.mark.parametrize(("choice", "name"), [(choice, name) for choice in REGISTRIES for name in REGISTRIES[choice]])
def test_a_range_that_is_read_is_the_one_that_the_config_has(choice, name):
    found, fields = catalog.ranges(choice, name), catalog.method_fields(choice, name)
    assert choice != "agent" or found.get("agent.discount") == ("unit" if learns_values(name) else None)
    assert choice != "mix" or found["mix.batch_size"] == "at_least_one"
    for path, kind in found.items():
        value = (OUTSIDE[kind],) if fields[path].kind.startswith("tuple") else OUTSIDE[kind]
        with pytest.raises(UserError) as real:
            REGISTRIES[choice][name].config(**{path.partition(".")[2]: value})
        with pytest.raises(UserError) as read:
            require_range(value, kind, path)
        assert str(real.value) == str(read.value)
