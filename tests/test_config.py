"""Configs: round trips, a stable hash, refusals that name the field, presets for every choice."""

import contextlib
import dataclasses
import pathlib
import re

import pytest

from cfdg_jax.config import REGISTRIES, TrainConfig, choice, get_path, named_choice
from cfdg_jax.errors import UserError
from cfdg_jax.fields import config_hash, from_dict, from_yaml, leaf_paths, override, to_dict, to_yaml
from cfdg_jax.presets import PRESETS, apply_preset, make_config, task_family

ROOT = pathlib.Path(__file__).resolve().parents[1]
CHOICES = [
    {"agent": agent, "augment": augment, "stratify": stratify}
    for agent in REGISTRIES["agent"]
    for augment in REGISTRIES["augment"]
    for stratify in REGISTRIES["stratify"]
]


def chosen(names):
    return dataclasses.replace(TrainConfig(), **{field: named_choice(field, name) for field, name in names.items()})


@pytest.mark.parametrize("names", CHOICES, ids=lambda names: "-".join(names.values()))
@pytest.mark.parametrize("task", ["hopper", "toy-sparse", "antmaze-medium-play"])
def test_every_preset_of_every_choice_survives_yaml(names, task):
    for preset in PRESETS:
        config = apply_preset(chosen(names), preset, task)
        assert from_yaml(to_yaml(config)) == config
        assert from_dict(to_dict(config)) == config
        assert {field: choice(config, field) for field in names} == names


def test_hash_depends_on_values_alone():
    assert config_hash(TrainConfig()) == config_hash(TrainConfig())
    assert config_hash(TrainConfig()) != config_hash(TrainConfig(seeds=4))
    assert config_hash(from_yaml(to_yaml(TrainConfig()))) == config_hash(TrainConfig())


def test_strings_become_the_fields_types():
    values = {"agent.expectile": "0.8", "agent.hidden": "64,32", "refresh.last": "true", "offline.steps": "1e4"}
    config = override(TrainConfig(), values)
    assert config.agent.expectile == 0.8 and config.agent.hidden == (64, 32)
    assert config.refresh.last is True and config.offline.steps == 10_000


@pytest.mark.parametrize("value", [[0, 3.0], [0.0, 3], "0,3", "(0, 3)", "[0.0, 3,]"])
def test_a_list_keeps_its_zeros_from_every_source(value):
    config = make_config({"dataset": "local:hopper-medium-v0", "stratify": "stratdiff", "seeds": 4}, "smoke")
    config = override(config, {"stratify.guidance_by_seed": value})
    assert config.stratify.guidance_by_seed == (0.0, 3.0)
    again = from_yaml(to_yaml(config))
    assert again == config and config_hash(again) == config_hash(config)
    with pytest.raises(UserError, match=r"stratify.guidance_by_seed: is ''; must be a number"):
        override(config, {"stratify.guidance_by_seed": "1,,2"})


@pytest.mark.parametrize(
    "values, message",
    [
        ({"agent.expectil": "0.8"}, r"agent.expectil: is no config field; did you mean agent.expectile"),
        ({"agent.expectile": "1.2"}, r"agent.expectile"),
        ({"seeds": "0"}, "seeds: is 0; must be at least 1"),
        ({"seeds": "2.5"}, "seeds: is '2.5'; must be a whole number"),
        ({"online.utd": "many"}, "online.utd: is 'many'; must be a whole number"),
        ({"refresh.last": "perhaps"}, "refresh.last: is 'perhaps'; must be true or false"),
        ({"mix.kind": "balancd"}, "mix.kind: is 'balancd'; did you mean balanced"),
        ({"dataset": ""}, "offline.steps: is 1000000 but there is no dataset"),
    ],
)
def test_bad_values_are_refused_by_name(values, message):
    with pytest.raises(UserError, match=message) as caught:
        override(TrainConfig(), values)
    assert "\n" not in str(caught.value)


def test_unknown_choices_name_the_nearest():
    with pytest.raises(UserError, match="augment: 'cfgd' is unknown; did you mean cfdg"):
        named_choice("augment", "cfgd")
    with pytest.raises(UserError, match="preset: 'papr' is unknown; did you mean paper"):
        apply_preset(TrainConfig(), "papr", "hopper")


def test_yaml_that_is_no_config_is_refused():
    for text in ("[1, 2", "- a\n- b", "nonsense: 3"):
        with pytest.raises(UserError):
            from_yaml(text, "some.yaml")


def test_leaf_paths_cover_the_nested_fields():
    paths = leaf_paths(TrainConfig())
    assert {"dataset", "agent.expectile", "mix.synthetic_share", "refresh.every"} <= set(paths)


def test_paper_preset_is_the_protocol_of_cfdg_table_1():
    config = apply_preset(chosen({"agent": "iql", "augment": "cfdg"}), "paper", "hopper")
    assert (config.offline.steps, config.online.steps, config.refresh.every) == (1_000_000, 1_000_000, 100_000)
    assert (config.refresh.rows, config.seeds, config.online.utd, config.online.start_steps) == (1_000_000, 5, 1, 5_000)
    assert (config.agent.expectile, config.agent.temperature) == (0.9, 10.0)
    assert (config.mix.kind, config.mix.batch_size, round(config.mix.synthetic_share, 3)) == ("balanced", 256, 0.333)


def test_what_fades_online_fades_in_the_reduced_preset_alone():
    shares = {"td3bc": "online_bc_share", "cql": "online_penalty_share", "calql": "online_penalty_share"}
    for agent, name in shares.items():
        of = lambda preset, agent=agent, name=name: getattr(
            apply_preset(chosen({"agent": agent}), preset, "hopper").agent, name
        )
        assert of("paper") == 1.0 and of("reduced") == 0.1


def test_paper_iql_is_the_pex_repositorys_and_reduced_iql_its_authors():
    of = lambda preset: apply_preset(chosen({"agent": "iql"}), preset, "hopper").agent
    paper, reduced = of("paper"), of("reduced")
    assert (paper.order, paper.q_loss, paper.init, paper.policy_init) == ("torch", "mean", "pytorch", "xavier")
    assert paper.copy_to_target and paper.reset_optimiser_online
    assert (reduced.order, reduced.q_loss, reduced.init, reduced.policy_init) == ("jax", "sum", "orthogonal", None)
    assert not reduced.copy_to_target and not reduced.reset_optimiser_online


@pytest.mark.parametrize(
    ("agent", "task", "preset", "values"),
    [
        ("td3bc", "hopper", "paper", {"agent.alpha": 2.5, "agent.tau": 0.005, "transform.observation": "standardise"}),
        ("td3bc", "hopper", "reduced", {"agent.alpha": 2.5, "agent.layer_norm": True, "agent.bc_decay": 10_000}),
        ("td3bc", "antmaze-umaze", "paper", {"transform.observation": "standardise"}),
        ("apl_td3bc", "hopper", "paper", {"transform.observation": "none", "mix.p_online": 0.1, "online.utd": 10}),
        ("apl_td3bc", "hopper", "reduced", {"agent.layer_norm": True, "mix.p_online": 0.1, "mix.gate": 2_000}),
        ("apl_cql", "hopper", "paper", {"mix.p_online": 0.5, "mix.gate": 10_000, "agent.policy_learning_rate": 1e-4}),
        ("apl_cql", "hopper", "paper", {"agent.layer_norm": False, "agent.order": "alpha_first"}),
        ("apl_cql", "hopper", "reduced", {"agent.layer_norm": True, "agent.init_temperature": 0.1}),
        ("calql", "hopper", "paper", {"agent.penalty_weight": 10.0, "agent.init_temperature": 1.0}),
        ("calql", "hopper", "reduced", {"agent.policy_learning_rate": 3e-4, "agent.init_temperature": 0.1}),
        ("cql", "hopper", "reduced", {"agent.layer_norm": True, "agent.online_penalty_share": 0.1}),
        ("calql", "hopper", "reduced", {"agent.layer_norm": True, "agent.online_penalty_share": 0.1}),
        ("redq", "hopper", "paper", {"online.steps": 125_000, "online.utd": 20, "agent.critics": 10}),
        ("redq", "halfcheetah", "paper", {"online.steps": 400_000, "agent.policy_delay": 20}),
        ("redq", "hopper", "reduced", {"online.utd": 4, "agent.critics": 4}),
        ("rlpd", "antmaze-umaze", "paper", {"online.steps": 300_000, "agent.subset": 1}),
        ("iql", "antmaze-umaze", "paper", {"transform.reward": "minus_one", "transform.failure_reward": None}),
        ("pex", "antmaze-umaze", "paper", {"transform.reward": "minus_one", "evaluate.episodes": 100}),
        ("pex", "hopper", "reduced", {"agent.expectile": 0.7, "transform.reward": "return_range"}),
        ("rlpd", "antmaze-umaze", "paper", {"transform.reward": "minus_one", "agent.entropy_backup": False}),
        ("cql", "antmaze-umaze", "paper", {"transform.reward": "scale_bias", "transform.failure_reward": 0.0}),
        ("cql", "antmaze-umaze", "paper", {"agent.penalty_weight": 5.0, "agent.lagrange_gap": 0.8}),
        ("cql", "antmaze-umaze", "paper", {"agent.penalty_min": -200.0, "agent.backup": "max"}),
        ("calql", "antmaze-umaze", "paper", {"transform.reward": "scale_bias", "transform.failure_reward": 0.0}),
        ("calql", "antmaze-umaze", "paper", {"agent.backup": "max", "agent.lagrange_gap": 0.8}),
        ("apl_cql", "hopper", "paper", {"online.update_every": 1_000, "online.utd": 10, "refresh.every": 10_000}),
        ("apl_td3bc", "hopper", "paper", {"online.start_steps": 1_000, "mix.recent": 20_000, "online.steps": 100_000}),
        ("apl_td3bc", "hopper", "reduced", {"transform.observation": "standardise", "mix.recent": 5_000}),
        ("sac", "hopper", "paper", {"online.random_steps": 5_000, "offline.steps": 0}),
        ("redq", "hopper", "paper", {"online.random_steps": 5_000, "agent.policy_delay": 20}),
        ("rlpd", "hopper", "reduced", {"online.random_steps": 1_000, "agent.policy_delay": 4, "agent.critics": 4}),
    ],
)
def test_presets_hold_what_the_documents_say(agent, task, preset, values):
    config = apply_preset(chosen({"agent": agent}), preset, task)
    assert {path: get_path(config, path) for path in values} == values


@pytest.mark.parametrize(
    ("choices", "preset", "values"),
    [
        ({"agent": "iql", "augment": "cfdg"}, "paper", {"augment.w": 0.3, "augment.p_uncond": 0.1}),
        ({"agent": "iql", "augment": "cfdg"}, "paper", {"augment.solver": "heun", "augment.sampler_steps": 128}),
        ({"agent": "iql", "augment": "edis"}, "reduced", {"augment.energy_batch": 64, "augment.negatives": 4}),
        ({"agent": "iql", "stratify": "stratdiff"}, "paper", {"agent.expectile": 0.7, "stratify.sampler_steps": 15}),
        ({"agent": "iql", "stratify": "stratdiff"}, "reduced", {"stratify.sampler_steps": 4, "stratify.guidance": 3.0}),
    ],
)
def test_presets_of_generators_and_stratifiers_hold_what_the_documents_say(choices, preset, values):
    config = apply_preset(chosen(choices), preset, "hopper")
    assert {path: get_path(config, path) for path in values} == values


@pytest.mark.parametrize("agent", ["redq", "rlpd"])
def test_the_policy_of_redq_and_rlpd_moves_once_per_environment_step(agent):
    base = {"dataset": "local:hopper-medium-v0", "agent": agent}
    assert make_config(base | {"online.utd": 7}).agent.policy_delay == 7
    assert make_config(base | {"online.utd": 7, "agent.policy_delay": 2}).agent.policy_delay == 2


def test_what_can_never_be_used_is_refused():
    with pytest.raises(UserError, match=r"transform\.scale: is 0"):
        override(TrainConfig(), {"transform.scale": 0.0})
    with pytest.raises(UserError, match=r"mix\.offline_share: is 1, and stratify a3rl"):
        override(chosen({"agent": "rlpd", "stratify": "a3rl"}), {"mix.offline_share": 1.0})
    with pytest.raises(UserError, match=r"mix\.gate: is 10000 with online.capacity 5000"):
        override(TrainConfig(), {"mix.kind": "oorb", "online.capacity": 5_000})
    with pytest.raises(UserError, match=r"mix\.gate: is 10000 with online.capacity 1000000 and online.steps 9000"):
        override(TrainConfig(), {"mix.kind": "oorb", "online.steps": 9_000})
    with pytest.raises(UserError, match=r"online\.update_every: is 1000; exceeds online.steps 400"):
        override(TrainConfig(), {"online.steps": 400, "online.update_every": 1_000})
    with pytest.raises(UserError, match=r"stratify\.guidance_by_seed: has 2 values and there are 3 seeds"):
        config = chosen({"agent": "iql", "stratify": "stratdiff"})
        override(config, {"stratify.guidance_by_seed": (1.0, 2.0), "seeds": 3})


def test_families():
    assert [task_family(t) for t in ("hopper", "toy-dense", "antmaze-umaze", "gym:Pendulum-v1")] == [
        "locomotion", "toy", "antmaze", "other",
    ]  # fmt: skip


def flags_of(text: str) -> dict[str, str]:
    """``{path: value}`` of the options in a line, but for those of whole commands."""
    spans = [span for span in re.findall(r"`([^`]+)`", text) if not re.match(r"(cfdg-jax|python) ", span)]
    return dict(found for span in spans for found in re.findall(r"--([a-z_.]+) (\S+)", span))


def test_every_option_of_the_differences_table_exists_and_takes_its_value():
    rows = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8").splitlines()
    options = [(path, value, row) for row in rows for path, value in flags_of(row).items()]
    assert len(options) > 60
    names = [{"agent": agent} for agent in REGISTRIES["agent"]] + [
        {"augment": name} for name in ("cfdg", "synther", "edis")
    ]
    names += [{"stratify": "stratdiff"}]
    for path, value, row in options:
        taken = []
        for name in names:
            with contextlib.suppress(UserError):
                taken.append(make_config({"dataset": "local:hopper-medium-v0"} | name | {path: value}))
        assert taken, f"--{path} {value} of: {row[:80]}"


@pytest.mark.parametrize(
    ("family", "values"),
    [
        ("kitchen", {"agent.penalty_weight": 5.0, "mix.offline_share": 0.25, "agent.hidden": (512, 512, 512),
                     "agent.importance_weights": False, "transform.reward": "raw",
                     "transform.truncation": "last_reward"}),
        ("Adroit", {"agent.penalty_weight": 1.0, "mix.offline_share": 0.5, "agent.hidden": (512, 512),
                    "agent.importance_weights": True, "transform.reward": "scale_bias", "transform.scale": 10.0,
                    "transform.bias": 5.0, "transform.failure_reward": -1.0}),
    ],
)  # fmt: skip
def test_cal_ql_s_authors_values_of_kitchen_and_adroit_are_the_row_s_options(family, values):
    """run_kitchen.sh and run_adroit.sh of their release."""
    table = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
    (row,) = (line for line in table.splitlines() if line.startswith("| Cal-QL: kitchen and Adroit"))
    both, kitchen, adroit = re.split(r"; (?:kitchen|Adroit's binary rewards): ", row.split("both: ")[1])
    flags = flags_of(both) | flags_of(kitchen if family == "kitchen" else adroit)
    config = make_config({"dataset": "minari:D4RL/kitchen/mixed-v2", "agent": "calql"} | flags)
    values |= {"agent.backup": "max", "agent.lagrange_gap": None, "transform.observation": "none"}
    values |= {"agent.critic_hidden": (512, 512, 512)}
    assert {path: get_path(config, path) for path in values} == values
