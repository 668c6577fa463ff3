"""Every variant of every agent can be chosen by its name, brings its fields, and makes an agent."""

import dataclasses

import pytest

from cfdg_jax.agents.registry import AGENTS, make_agent
from cfdg_jax.errors import UserError
from cfdg_jax.methods import Agent
from cfdg_jax.presets import make_config
from cfdg_jax.types import Spec

SPEC = Spec(obs_dim=4, act_dim=2, horizon=10)
VARIANTS = [(name, variant) for name, entry in AGENTS.items() for variant in entry.variants]


@pytest.mark.parametrize(("name", "variant"), VARIANTS, ids="-".join)
@pytest.mark.parametrize("dataset", ["local:hopper-medium-v0", "d4rl:antmaze-umaze-v2"])
def test_a_variant_brings_its_fields_on_every_task(name, variant, dataset):
    config = make_config(dataset=dataset, agent=name, **{"agent.variant": variant}).agent
    assert config.variant == variant
    fields = AGENTS[name].variants[variant].fields
    assert {field: getattr(config, field) for field in fields} == dict(fields)
    assert isinstance(make_agent(config, SPEC), Agent)


@pytest.mark.parametrize("name", [name for name, entry in AGENTS.items() if entry.variants])
def test_the_default_is_the_authors_and_an_unknown_variant_is_refused(name):
    config = AGENTS[name].config()
    assert config.variant == "authors" and not AGENTS[name].variants["authors"].fields
    with pytest.raises(UserError, match=r"^agent\.variant: 'author' is unknown; did you mean authors"):
        dataclasses.replace(config, variant="author")
