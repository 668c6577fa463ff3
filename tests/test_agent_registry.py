"""Agents by name, by config, and refused."""

import dataclasses

import pytest

from cfdg_jax.agents.registry import AGENTS, make_agent
from cfdg_jax.types import Agent, Spec, UserError

SPEC = Spec(obs_dim=4, act_dim=2, horizon=10)


@pytest.mark.parametrize("name", AGENTS)
def test_a_name_and_its_default_config_make_an_agent(name):
    config = AGENTS[name].config()
    assert dataclasses.is_dataclass(config) and config.__dataclass_params__.frozen
    for agent in (make_agent(name, SPEC), make_agent(config, SPEC, "online", 100)):
        assert isinstance(agent, Agent)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"^agent: 'iqll' is unknown; did you mean iql.*valid: iql"):
        make_agent("iqll", SPEC)


def test_a_foreign_config_is_refused():
    with pytest.raises(UserError, match=r"^agent: Spec is .* config of a registered agent"):
        make_agent(SPEC, SPEC)
