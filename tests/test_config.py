"""Configs: round trips, a stable hash, refusals that name the field, presets for every choice."""

import contextlib
import pathlib
import re
import types

import pytest
from settings import setting, value_at

from cfdg_jax.config import REGISTRIES, TrainConfig, choice, named_choice, remarks, resolved
from cfdg_jax.errors import UserError
from cfdg_jax.fields import config_hash, from_dict, from_yaml, leaf_paths, override, to_dict, to_yaml
from cfdg_jax.presets import make_config, task_family
from cfdg_jax.values import PRESETS

ROOT = pathlib.Path(__file__).resolve().parents[1]
CHOICES = [
    {"agent": agent, "augment": augment, "stratify": stratify}
    for agent in REGISTRIES["agent"]
    for augment in REGISTRIES["augment"]
    for stratify in REGISTRIES["stratify"]
]


DATASETS = {"hopper": "local:hopper-medium-v0", "toy-sparse": "local:toy-sparse-medium-replay-v0"}
DATASETS |= {"antmaze-medium-play": "d4rl:antmaze-medium-play-v2", "antmaze-umaze": "d4rl:antmaze-umaze-v2"}
DATASETS |= {"halfcheetah": "d4rl:halfcheetah-medium-v2"}


def preset_of(preset, task, **names):
    return make_config(DATASETS[task], preset=preset, **names)


@pytest.mark.parametrize("names", CHOICES, ids=lambda names: "-".join(names.values()))
@pytest.mark.parametrize("task", ["hopper", "toy-sparse", "antmaze-medium-play"])
def test_every_preset_of_every_choice_survives_yaml(names, task):
    for preset in PRESETS:
        config = preset_of(preset, task, **names)
        assert config.preset == preset
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


@pytest.mark.parametrize("value", [[0, 3.0], [0.0, 3], ("0", "3"), "stratify.guidance=0,3"])
def test_an_axis_keeps_its_zeros_from_every_source(value):
    config = make_config("local:hopper-medium-v0", stratify="stratdiff", seeds=4, preset="smoke")
    axis = value if isinstance(value, str) else {"stratify.guidance": value}
    config = override(config, {"vmap": axis})
    assert config.vmap == {"stratify.guidance": (0.0, 3.0)}
    again = from_yaml(to_yaml(config))
    assert again == config and config_hash(again) == config_hash(config)
    with pytest.raises(UserError, match=r"stratify.guidance: is ''; must be a number"):
        override(config, {"vmap": "stratify.guidance=1,,2"})


@pytest.mark.parametrize(
    "values, message",
    [
        ({"agent.expectil": "0.8"}, r"agent.expectil: is no config field; did you mean agent.expectile"),
        ({"agent.expectile": "1.2"}, r"agent.expectile"),
        ({"seeds": "0"}, "seeds: is 0; must be at least 1"),
        ({"seeds": "2.5"}, "seeds: is '2.5'; must be a whole number"),
        ({"online.utd": "many"}, "online.utd: is 'many'; must be a whole number"),
        ({"refresh.last": "perhaps"}, "refresh.last: is 'perhaps'; must be true or false"),
        ({"mix.split": "fixd"}, "mix.split: is 'fixd'; did you mean fixed"),
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
        make_config("local:hopper-medium-v0", preset="papr")


def test_what_another_method_has_is_said_where_it_is():
    for fields, message in (
        ({"mix.p_online": 0.1}, "mix.p_online: is no config field; it belongs to --mix oorb"),
        ({"stratify.rho": 0.1}, "stratify.rho: is no config field; it belongs to --stratify stratdiff"),
        ({"agent.order": "torch"}, "releases are chosen by --agent.variant"),
        ({"stratify": "a3rl"}, "stratify: 'a3rl' is unknown; it is chosen by --mix a3rl"),
    ):
        with pytest.raises(UserError) as error:
            make_config(**fields)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_yaml_that_is_no_config_is_refused():
    for text in ("[1, 2", "- a\n- b", "nonsense: 3"):
        with pytest.raises(UserError):
            from_yaml(text, "some.yaml")


def test_leaf_paths_cover_the_nested_fields():
    paths = leaf_paths(TrainConfig())
    assert {"dataset", "agent.expectile", "mix.synthetic_share", "refresh.every"} <= set(paths)


def test_paper_preset_is_the_protocol_of_cfdg_table_1():
    config = preset_of("paper", "hopper", agent="iql", augment="cfdg")
    assert (config.offline.steps, config.online.steps, config.refresh.every) == (1_000_000, 1_000_000, 100_000)
    assert (config.refresh.rows, config.refresh.capacity, config.seeds) == (100_000, 1_000_000, 5)
    assert (config.online.utd, config.online.start_steps) == (1, 5_000)
    assert (config.agent.expectile, config.agent.temperature) == (0.9, 10.0)
    assert (choice(config, "mix"), config.mix.batch_size, round(config.mix.synthetic_share, 3)) == (
        "balanced",
        256,
        0.333,
    )


def test_what_fades_online_fades_in_the_reduced_preset_alone():
    shares = {"td3bc": "online_bc_share", "cql": "online_penalty_share", "calql": "online_penalty_share"}
    for agent, name in shares.items():
        of = lambda preset, agent=agent, name=name: getattr(preset_of(preset, "hopper", agent=agent).agent, name)
        assert of("paper") == 1.0 and of("reduced") == 0.1


IQL_SWITCHES = ("order", "q_loss", "init", "policy_init", "copy_to_target", "reset_optimiser_online")


def test_paper_iql_is_the_pex_repositorys_and_reduced_iql_its_authors():
    of = lambda preset: preset_of(preset, "hopper", agent="iql").agent
    entry = REGISTRIES["agent"]["iql"]
    paper, reduced = (
        types.SimpleNamespace(**{name: setting(of(preset), entry, name) for name in IQL_SWITCHES})
        for preset in ("paper", "reduced")
    )
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
    config = preset_of(preset, task, agent=agent)
    assert {path: value_at(config, path) for path in values} == values


@pytest.mark.parametrize(
    ("choices", "preset", "values"),
    [
        ({"agent": "iql", "augment": "cfdg"}, "paper", {"augment.w": 0.3, "augment.p_uncond": 0.1}),
        ({"agent": "iql", "augment": "cfdg"}, "paper", {"augment.solver": "heun", "augment.sampler_steps": 128}),
        ({"agent": "iql", "augment": "cfdg"}, "paper", {"augment.churn": 40.0, "augment.lr": 3e-4}),
        ({"agent": "iql", "augment": "synther"}, "paper", {"augment.churn": 80.0, "augment.ema_share": 0.02}),
        ({"agent": "iql", "augment": "edis"}, "paper", {"augment.steps": 30_000, "augment.ema_share": 1 / 15}),
        ({"agent": "iql", "augment": "edis"}, "reduced", {"augment.lr": 2e-3, "augment.ema_share": 0.02}),
        ({"agent": "iql", "augment": "cfdg"}, "reduced", {"augment.lr": 2e-3, "augment.width": 256}),
        ({"agent": "iql", "augment": "edis"}, "reduced", {"augment.energy_batch": 64, "augment.negatives": 4}),
        ({"agent": "iql", "stratify": "stratdiff"}, "paper", {"agent.expectile": 0.7, "stratify.sampler_steps": 15}),
        ({"agent": "iql", "stratify": "stratdiff"}, "reduced", {"stratify.sampler_steps": 4, "stratify.guidance": 3.0}),
    ],
)
def test_presets_of_generators_and_stratifiers_hold_what_the_documents_say(choices, preset, values):
    config = preset_of(preset, "hopper", **choices)
    assert {path: value_at(config, path) for path in values} == values


@pytest.mark.parametrize("preset", ["paper", "reduced", "smoke"])
def test_generators_are_compared_at_equal_settings(preset):
    """Share of a batch, refreshes and rings are the run's, whoever generates (CFDG, section 5)."""
    of = lambda **choices: preset_of(preset, "hopper", agent="iql", **choices)
    generators = [name for name in REGISTRIES["augment"] if name != "none"]
    for name in generators:
        config, plain = of(augment=name), of()
        assert (config.refresh, config.mix) == (plain.refresh, plain.mix), name
    assert len(generators) > 1 and config.mix.synthetic_share == 1 / 3


def test_a_ring_smaller_than_a_refresh_is_refused():
    with pytest.raises(UserError, match=r"refresh\.capacity: is 50, and a refresh makes 60 rows; raise it"):
        make_config(refresh__rows=60, refresh__capacity=50)


@pytest.mark.parametrize("agent", ["redq", "rlpd"])
def test_the_policy_of_redq_and_rlpd_moves_once_per_environment_step(agent):
    delay = lambda **fields: resolved(make_config("local:hopper-medium-v0", agent, **fields))["agent"].policy_delay
    assert delay(online__utd=7) == 7
    assert delay(online__utd=7, agent__policy_delay=2) == 2


def test_what_can_never_be_used_is_refused():
    with pytest.raises(UserError, match=r"transform\.scale: is 0"):
        override(TrainConfig(), {"transform.scale": 0.0})
    with pytest.raises(UserError, match=r"mix\.offline_share: is 1\.0; must lie strictly between 0 and 1"):
        make_config(agent="rlpd", mix="a3rl", mix__offline_share=1.0)
    with pytest.raises(UserError, match=r"mix: chooses among offline and online rows, but there is no dataset"):
        make_config("", env__task="hopper", agent="rlpd", mix="a3rl")
    with pytest.raises(UserError, match=r"mix\.gate: is 10000 with online.capacity 5000"):
        make_config(mix="oorb", online__capacity=5_000)
    with pytest.raises(UserError, match=r"mix\.gate: is 10000 with online.capacity 1000000 and online.steps 9000"):
        make_config(mix="oorb", online__steps=9_000)
    with pytest.raises(UserError, match=r"online\.update_every: is 1000; exceeds online.steps 400"):
        override(TrainConfig(), {"online.steps": 400, "online.update_every": 1_000})


def test_a_config_made_by_hand_claims_no_preset():
    assert TrainConfig().preset == "" and make_config().preset == "paper"


def test_what_goes_with_an_agent_is_chosen_unless_something_else_is_named():
    chosen = lambda **names: {field: choice(make_config(**names), field) for field in ("mix", "stratify")}
    assert chosen(agent="apl_cql") == {"mix": "oorb", "stratify": "by_source"}
    assert chosen(agent="apl_cql", mix="balanced", stratify="none") == {"mix": "balanced", "stratify": "none"}
    assert chosen(agent="td3bc", stratify="adaptive_bc") == {"mix": "uniform", "stratify": "adaptive_bc"}
    assert chosen(agent="iql", stratify="adaptive_bc")["mix"] == "balanced"


def test_a_variant_brings_its_fields_and_single_fields_are_stronger():
    variant = lambda **fields: make_config(agent="iql", **fields).agent
    assert (variant().variant, variant().expectile) == ("pex", 0.9), "preset paper"
    assert (variant(agent__variant="authors").variant, variant(agent__variant="authors").expectile) == ("authors", 0.7)
    assert variant(agent__variant="pex", agent__expectile=0.8).expectile == 0.8
    reduced = variant(preset="reduced", agent__variant="pex")
    assert (reduced.expectile, reduced.temperature, reduced.tau) == (0.9, 10.0, 0.02)
    with pytest.raises(UserError, match=r"agent\.variant: 'pexx' is unknown; did you mean pex"):
        variant(agent__variant="pexx")


def test_remarks_say_what_changes_nothing():
    said = lambda **fields: " ".join(remarks(make_config(**fields)))
    assert "no update is made online" in said(online__start_steps=10_000, online__steps=10_000)
    assert "marks change nothing" in said(agent="sac", stratify="by_source")
    assert "no row is generated" in said(augment="cfdg", online__steps=50_000)
    assert "generated rows are in no batch" in said(augment="cfdg", mix__synthetic_share=0.0)
    assert "this mix changes nothing" in said(dataset="", env__task="hopper", agent="sac", mix="uniform")
    assert "failure_rule changes nothing" in said(transform__failure_rule="last")
    assert "offline policy is a random one" in said(agent="pex", offline__steps=0)
    assert "is beyond its start" in said(mix="balanced_replay", mix__first_rows=500)
    assert "set both to one value" in said(agent="td3bc", stratify="adaptive_bc", stratify__most=8.0)
    assert said(agent="iql", augment="cfdg") == said(agent="apl_cql") == ""


def test_a_config_knows_no_preset_but_those_that_make_config_applies():
    with pytest.raises(UserError, match="preset: is 'mine'; it is what make_config applied: leave it out"):
        TrainConfig(preset="mine")
    for wrong in ("mine", None):
        with pytest.raises(UserError, match=f"preset: '{wrong}' is unknown; valid: paper, reduced, smoke"):
            make_config(preset=wrong)


def test_families():
    assert [task_family(t) for t in ("hopper", "toy-dense", "antmaze-umaze", "gym:Pendulum-v1")] == [
        "locomotion", "toy", "antmaze", "other",
    ]  # fmt: skip


def options_in(text: str) -> dict[str, str]:
    """``{path: value}`` of the options in a line, but for those of whole commands."""
    spans = [span for span in re.findall(r"`([^`]+)`", text) if not re.match(r"(cfdg-jax|python) ", span)]
    return dict(found for span in spans for found in re.findall(r"--([a-z_.]+) (\S+)", span))


def test_every_option_of_the_differences_tables_exists_and_takes_its_value():
    rows = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8").splitlines()
    options = [(path, value, row) for row in rows for path, value in options_in(row).items()]
    assert len(options) > 40
    names = [{field: name} for field, entries in REGISTRIES.items() for name in entries]

    def taken(**fields):
        with contextlib.suppress(UserError):
            return make_config("local:hopper-medium-v0", **fields)

    for path, value, row in options:
        assert any(taken(**(name | {path: value})) for name in names), f"--{path} {value} of: {row[:80]}"
