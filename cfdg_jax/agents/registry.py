"""The agents by name: adding one is its file and one line here; the contract tests then cover it."""

from __future__ import annotations

from typing import Any, Literal

from cfdg_jax.agents import apl_cql, awac, calql, cql, crossq, iql, pex, redq, rlpd, sac, td3bc
from cfdg_jax.methods import Agent, Entry, registered
from cfdg_jax.types import Spec

AGENTS: dict[str, Entry] = {
    "iql": iql.ENTRY,
    "pex": pex.ENTRY,
    "awac": awac.ENTRY,
    "cql": cql.ENTRY,
    "calql": calql.ENTRY,
    "td3bc": td3bc.TD3BC,
    "apl_cql": apl_cql.ENTRY,
    "apl_td3bc": td3bc.APL_TD3BC,
    "crossq": crossq.ENTRY,
    "td3": td3bc.TD3,
    "sac": sac.ENTRY,
    "redq": redq.ENTRY,
    "rlpd": rlpd.ENTRY,
}


def make_agent(
    agent: Any, spec: Spec, phase: Literal["offline", "online"] = "offline", phase_updates: int = 1_000_000
) -> Agent:
    """The agent of a config object.

    Args:
      agent: An instance of a registered config class.
      spec: The task.
      phase: Which phase's update and acting are wanted; the state's structure may differ between the two.
      phase_updates: Updates of the whole phase, for schedules that end with it.

    Raises:
      UserError: for a config that is not registered.
    """
    return registered(AGENTS, agent).factory(agent, spec, phase, phase_updates)
