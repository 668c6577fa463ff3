"""The agents by name: adding one is its file and one line here; the contract tests then cover it."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from cfdg_jax.agents.cql import APLCQLConfig, CalQLConfig, CQLConfig, cql
from cfdg_jax.agents.crossq import CrossQConfig, crossq
from cfdg_jax.agents.iql import IQLConfig, iql
from cfdg_jax.agents.pex import PEXConfig, pex
from cfdg_jax.agents.sac import REDQConfig, RLPDConfig, SACConfig, sac
from cfdg_jax.agents.td3bc import APLTD3BCConfig, TD3BCConfig, TD3Config, td3bc
from cfdg_jax.errors import UserError
from cfdg_jax.types import Agent, Spec


class AgentEntry(NamedTuple):
    """One registered agent.

    Attributes:
      config: Its config class; the defaults of all fields are valid.
      factory: ``(config, spec, phase, phase_updates) -> Agent``.
      offline: Whether it is made to be pre-trained on logged data.
      stratify: The registered stratifier that belongs to the method, used unless another is named.
    """

    config: type
    factory: Callable[[Any, Spec, Literal["offline", "online"], int], Agent]
    offline: bool
    stratify: str = "none"


AGENTS: dict[str, AgentEntry] = {
    "iql": AgentEntry(IQLConfig, iql, offline=True),
    "pex": AgentEntry(PEXConfig, pex, offline=True),
    "cql": AgentEntry(CQLConfig, cql, offline=True),
    "calql": AgentEntry(CalQLConfig, cql, offline=True),
    "td3bc": AgentEntry(TD3BCConfig, td3bc, offline=True),
    "apl_cql": AgentEntry(APLCQLConfig, cql, offline=True, stratify="by_source"),
    "apl_td3bc": AgentEntry(APLTD3BCConfig, td3bc, offline=True, stratify="by_source"),
    "crossq": AgentEntry(CrossQConfig, crossq, offline=False),
    "td3": AgentEntry(TD3Config, td3bc, offline=False),
    "sac": AgentEntry(SACConfig, sac, offline=False),
    "redq": AgentEntry(REDQConfig, sac, offline=False),
    "rlpd": AgentEntry(RLPDConfig, sac, offline=False),
}


def make_agent(
    agent: Any, spec: Spec, phase: Literal["offline", "online"] = "offline", phase_updates: int = 1_000_000
) -> Agent:
    """The agent of a config object, or of a name with its default config.

    Args:
      agent: An instance of a registered config class, or a key of `AGENTS`.
      spec: The task.
      phase: Which phase's update and acting are wanted; the state's structure may differ between the two.
      phase_updates: Updates of the whole phase, for schedules that end with it.

    Raises:
      UserError: for a name or a config that is not registered.
    """
    if isinstance(agent, str):
        if agent not in AGENTS:
            close = difflib.get_close_matches(agent, AGENTS, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            raise UserError("agent", f"'{agent}' is unknown", f"{hint}valid: {', '.join(AGENTS)}")
        agent = AGENTS[agent].config()
    for entry in AGENTS.values():
        if type(agent) is entry.config:
            return entry.factory(agent, spec, phase, phase_updates)
    raise UserError(
        "agent", f"{type(agent).__name__} is not the config of a registered agent", "see agents/registry.py"
    )
