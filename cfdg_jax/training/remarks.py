"""What a user should know of a run's choices before it starts: that something is never used, or never happens."""

from __future__ import annotations

from collections.abc import Iterator

from cfdg_jax.agents.registry import AGENTS
from cfdg_jax.config import TrainConfig, TransformConfig, choice
from cfdg_jax.data.mix import MixConfig
from cfdg_jax.training.refresh import first_refresh


def remarks(config: TrainConfig, generates: bool) -> Iterator[str]:
    """One line each; `generates`: the augmenter makes rows."""
    name, stratify, online = choice(config, "agent"), choice(config, "stratify"), config.online
    agent = AGENTS[name]
    if online.steps and online.start_steps >= online.steps:
        yield (
            f"warning: no update is made online, since online.start_steps is {online.start_steps} and online.steps "
            f"{online.steps}; lower the first"
        )
    if generates and online.steps and first_refresh(config) is None:
        yield "warning: no refresh comes before the end, so no row is generated; lower refresh.every or min_online"
    if generates and config.mix.composition == "fixed" and config.mix.synthetic_share == 0.0:
        yield "warning: generated rows are in no batch; raise mix.synthetic_share, or use --augment none"
    if stratify not in ("none", "a3rl", agent.stratify) and not agent.offline:  # a3rl chooses rows, and marks none
        yield "warning: this agent has no offline regulariser, so marks change nothing; use --stratify none"
    if not config.dataset and config.mix.kind != "balanced":
        yield f"warning: without a dataset all rows are online, and mix.kind {config.mix.kind} changes nothing"
    if config.mix.kind in ("oorb", "uniform") and config.mix.offline_share != MixConfig.offline_share:
        yield f"warning: mix.offline_share changes nothing under mix.kind {config.mix.kind}; use balanced"
    transform = config.transform
    if transform.failure_rule != TransformConfig.failure_rule and transform.failure_reward is None:
        yield "warning: transform.failure_rule changes nothing without transform.failure_reward; set both"
    if config.offline.steps == 0 and name == "pex":
        yield "warning: without pre-training the offline policy of PEX is a random one; set offline.steps"
    if config.dataset and config.offline.steps == 0 and not agent.offline:
        as_rlpd = ", as RLPD's do" if config.mix.kind == "balanced" else ""
        yield f"no pre-training; batches mix {config.dataset} with online rows ({config.mix.kind}){as_rlpd}"
