"""Presets per (agent, augmenter, task family): every value that differs from a config's default, with its source.

``paper``    the protocol of CFDG's Table 1 (arXiv 2508.06806, section 5; reference for what it leaves open).
``reduced``  the same method at a size that shows its behaviour in minutes to an hour on a few CPU cores.
``smoke``    seconds; only proves that everything runs.

A preset is a function of the choices alone, so that ``--preset paper`` and a config.yaml of it agree for ever.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cfdg_jax.agents.registry import AGENTS
from cfdg_jax.config import (
    REGISTRIES,
    EnvConfig,
    OfflineConfig,
    TrainConfig,
    choice,
    leaf_paths,
    named_choice,
    override,
)
from cfdg_jax.data.load import task_of_name
from cfdg_jax.errors import nearest, require

PRESETS = ("paper", "reduced", "smoke")


def task_family(task: str) -> str:
    """``antmaze``, ``toy``, ``locomotion`` or ``other``, from an environment id such as ``hopper``."""
    if task.startswith("antmaze"):
        return "antmaze"
    if task.startswith("toy"):
        return "toy"
    return "locomotion" if task in ("hopper", "halfcheetah", "walker2d", "ant") else "other"


def make_config(values: Mapping[str, Any], preset: str = "paper") -> TrainConfig:
    """The config that a command line or a line of a sweep describes: choices, then preset, then fields.

    Args:
      values: ``dataset``, ``agent``, ``augment``, ``stratify``, ``mix`` and ``seeds`` by name, and dotted fields.
      preset: Where all other values come from.

    Raises:
      UserError: for an unknown name, field or value.
    """
    fields = {"mix.kind" if name == "mix" else name: value for name, value in values.items()}
    chosen: dict[str, Any] = {
        field: named_choice(field, str(fields.pop(field))) for field in REGISTRIES if field in fields
    }
    agent = choice(dataclasses.replace(TrainConfig(), **chosen), "agent")
    if "stratify" not in chosen:
        chosen["stratify"] = named_choice("stratify", AGENTS[agent].stratify)
    dataset = fields.pop("dataset", None)
    if dataset is not None:
        chosen["dataset"] = str(dataset)
    if dataset == "":  # the task and no pre-training from the start, or the config would refuse itself
        chosen |= {"env": EnvConfig(task=str(fields.get("env.task", ""))), "offline": OfflineConfig(steps=0)}
    config = dataclasses.replace(TrainConfig(), **chosen)
    task = str(fields.get("env.task", "")) or task_of_name(config.dataset)
    config = override(apply_preset(config, preset, task), fields)
    if agent in ("redq", "rlpd") and "agent.policy_delay" not in fields:  # one policy step per environment step
        config = override(config, {"agent.policy_delay": config.online.utd})
    if choice(config, "stratify") == "a3rl" and "stratify.correction_updates" not in fields:  # over the whole run
        updates = (config.online.steps - config.online.start_steps) * config.online.utd
        config = override(config, {"stratify.correction_updates": max(updates, 1)})
    if config.mix.kind == "balanced_replay" and "online.start_steps" not in fields:  # its share is that of these rows
        config = override(config, {"online.start_steps": min(config.mix.first_rows, config.online.start_steps)})
    if choice(config, "stratify") == "adaptive_bc" and agent == "td3bc" and "agent.bc_weight" not in fields:
        config = override(config, {"agent.bc_weight": config.stratify.most})
    return config


def apply_preset(config: TrainConfig, preset: str, task: str) -> TrainConfig:
    """`config` (its choices made, its values default) with the preset's values for `task`."""
    require(preset in PRESETS, "preset", f"'{preset}' is unknown", nearest(preset, PRESETS))
    agent, augment = choice(config, "agent"), choice(config, "augment")
    family = task_family(task)
    stratify = choice(config, "stratify")
    values: dict[str, Any] = _paper(agent, augment, stratify, family, task)
    if preset == "paper" and agent == "iql" and stratify != "stratdiff":
        values |= PEX_IQL
    scratch = not AGENTS[agent].offline or config.dataset == ""  # RLPD has a dataset, but no pre-training
    if scratch:
        values |= {"offline.steps": 0, "online.random_steps": 5_000}  # SAC, REDQ, RLPD: until updates begin
    if preset != "paper":
        values |= _reduced(agent, augment, family, scratch) | (_reduced_stratdiff() if stratify == "stratdiff" else {})
    if preset == "smoke":
        values |= _smoke(config, scratch)
    if stratify == "adaptive_bc" and agent == "td3bc":  # its weight follows returns instead of a schedule
        values |= {"agent.online_bc_share": 1.0, "agent.bc_decay": 0, "agent.bc_weight": 0.4}
        values |= {"agent.alpha": 1.0}  # of bc_weight what TD3+BC's are of 1
    if config.dataset == "":  # nothing to fit them on
        values |= {"transform.reward": "raw", "transform.observation": "none"}
    return dataclasses.replace(override(config, values), preset=preset)


PEX_IQL: dict[str, Any] = {
    "agent.expectile": 0.9,
    "agent.temperature": 10.0,
    "agent.order": "torch",
    "agent.q_loss": "mean",
    "agent.init": "pytorch",
    "agent.policy_init": "xavier",
    "agent.copy_to_target": True,
    "agent.reset_optimiser_online": True,
}
"""The PEX repository's IQL, which is CFDG's base (reference 3.2, 5.6 and D11)."""


REDQ_STEPS = {"hopper": 125_000, "walker2d": 300_000, "ant": 300_000, "halfcheetah": 400_000}
"""Environment steps of REDQ's released code (its mbpo_epoches, of 1,000 steps each)."""


def _paper(agent: str, augment: str, stratify: str, family: str, task: str) -> dict[str, Any]:
    antmaze = family == "antmaze"
    values: dict[str, Any] = {
        "transform.reward": "minus_one" if antmaze else "raw",  # reference 1.3: PEX, CFDG's bases, RLPD
        "evaluate.episodes": 100 if antmaze else 10,  # reference 1.5
        "evaluate.online_every": 50_000 if antmaze else 10_000,  # reference 1.5
        "evaluate.offline_every": 100_000 if antmaze else 50_000,  # IQL: 100K AntMaze; locomotion thinned from 5K
    }
    if agent == "td3bc" or (agent in ("cql", "calql") and not antmaze):
        values |= {"transform.observation": "standardise"}  # TD3_BC.py; CORL's CQL; EDIS's Cal-QL
    values |= _paper_conservative(agent, antmaze)
    if agent in ("apl_cql", "apl_td3bc"):  # APL's released code (reference 3.3); CFDG pre-trains for 1M updates
        values |= {"mix.kind": "oorb", "mix.p_online": 0.5 if agent == "apl_cql" else 0.1, "online.start_steps": 1_000}
        values |= {"online.steps": 100_000, "online.update_every": 1_000, "online.utd": 10, "refresh.every": 10_000}
    if stratify == "a3rl":  # needs both origins in a batch, which APL's have not
        values |= {"mix.kind": "balanced"}
    if stratify == "adaptive_bc" and agent == "td3bc":  # reference 7; no state of the task is normalised there
        values |= {"mix.kind": "uniform", "online.steps": 250_000, "online.utd": 10, "transform.observation": "none"}
    if stratify == "stratdiff" and antmaze:
        values |= {"stratify.supports": 32, "stratify.guidance": 2.0}  # reference 6.3
    if agent in ("redq", "rlpd"):  # reference 3.7
        values |= {"online.steps": 300_000 if antmaze else 250_000, "online.utd": 20, "agent.policy_delay": 20}
    if agent == "redq":
        values |= {"online.steps": REDQ_STEPS.get(task, 300_000)}
    if agent == "rlpd" and antmaze:
        values |= {"agent.hidden": (256, 256, 256), "agent.subset": 1, "agent.entropy_backup": False}
    if augment == "synther":  # SynthER online (sac_synther_dmc.gin): half of each batch, 200K rows every 10K steps
        values |= {"mix.synthetic_share": 0.5, "refresh.every": 10_000, "refresh.rows": 200_000}
    if augment == "edis":  # reference 4.3
        values |= {"refresh.every": 10_000, "refresh.rows": 100_000}
    if stratify == "adaptive_bc" and family == "toy":
        values |= {"stratify.returns": (0.0, 1.0 if task == "toy-sparse" else 3.0)}  # nothing done, and arrival
    if family == "toy":
        values |= {"transform.reward": "raw", "transform.observation": "none", "evaluate.episodes": 20}
    return values


def _paper_conservative(agent: str, antmaze: bool) -> dict[str, Any]:
    """CQL and Cal-QL (reference 3.4, 3.5): CORL's values for CQL; for Cal-QL its authors' on AntMaze, and StratDiff's
    reading with EDIS's transforms on locomotion."""
    values: dict[str, Any] = {}
    if agent in ("cql", "calql") and antmaze:
        values = {"transform.reward": "scale_bias", "transform.failure_reward": 0.0}
    if agent == "cql" and antmaze:
        values |= {"agent.critic_hidden": (256,) * 5, "agent.policy_learning_rate": 1e-4, "agent.backup": "max"}
        values |= {"agent.penalty_weight": 5.0, "agent.lagrange_gap": 0.8, "agent.penalty_min": -200.0}
    if agent == "calql" and not antmaze:
        values = {"transform.reward": "return_range", "agent.penalty_weight": 10.0, "agent.lagrange_gap": None}
        values |= {"agent.backup": "sample"}
    return values


def _reduced(agent: str, augment: str, family: str, scratch: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "offline.steps": 20_000,
        "online.steps": 20_000,
        "online.start_steps": 1_000,
        "online.capacity": 100_000,
        "mix.gate": 2_000,
        "mix.recent": 5_000,
        "refresh.every": 5_000,
        "refresh.min_online": 1_000,
        "refresh.rows": 20_000,
        "refresh.chunk": 5_000,
        "evaluate.offline_every": 5_000,
        "evaluate.online_every": 2_500,
        "seeds": 3,
    }
    if scratch:
        values |= {"offline.steps": 0, "online.steps": 100_000}
        values |= {"online.random_steps": 1_000}
        values |= {"evaluate.online_every": 5_000}
    if agent in ("iql", "pex"):  # IQL paper, locomotion and AntMaze (reference 3.1)
        antmaze = family == "antmaze"
        values |= {"agent.expectile": 0.9 if antmaze else 0.7, "agent.temperature": 10.0 if antmaze else 3.0}
        if not antmaze and family != "toy":
            values |= {"transform.reward": "return_range"}
    if AGENTS[agent].offline and family != "toy":
        # after n updates a target looks about n tau steps ahead: at 0.005 that is fewer than 1 / (1 - discount)
        values |= {"agent.tau": 0.02}
    if agent in ("td3bc", "apl_td3bc"):  # without it alpha 2.5 diverges at that rate on 200,000 rows
        values |= {"agent.layer_norm": True}
    if agent == "apl_td3bc" and family != "toy":  # TD3+BC's; the release has none
        values |= {"transform.observation": "standardise"}
    if agent == "td3bc":  # without cloning online the policy collapses, with all of it it stays where it is
        values |= {"agent.online_bc_share": 0.1, "agent.bc_decay": 10_000}
    if agent in ("cql", "calql", "apl_cql"):  # 1e-4 and less in the papers, over a million updates
        values |= {"agent.policy_learning_rate": 3e-4}
        values |= {"agent.init_temperature": 0.1}  # 1 in the papers; it would take 10,000 updates to come down
        # Cal-QL's bound lifts Q to the returns at once; plain critics overshoot, on random to 1e7;
        # CQL and APL's CQL gain more online with it (benchmarks/results/agents.md)
        values |= {"agent.layer_norm": True}
    if agent in ("cql", "calql"):
        # at 10 policies stay as pre-trained for tens of thousands of steps; EDIS 0 to 1 by task
        values |= {"agent.online_penalty_share": 0.1}
    if agent in ("apl_cql", "apl_td3bc"):
        values |= {"online.update_every": 1_000, "online.utd": 2}
    if agent in ("redq", "rlpd"):
        values |= {"online.utd": 4, "agent.policy_delay": 4, "agent.critics": 4}
    if augment != "none":  # reference 5.4: CPU preset (width 256, 5K steps, 16 to 32 sampling steps)
        values |= {
            "augment.width": 256,
            "augment.dim_t": 64,
            "augment.steps": 3_000,
            "augment.solver": "dpm++3m",  # at 24 evaluations as good as SynthER's 255 (benchmarks/results/samplers.md)
            "augment.sampler_steps": 24,
            "augment.churn": 0.0,
            "augment.next_obs": "change",  # one-step errors a third of those of s' itself after 2,000 fit steps
            "refresh.every": 5_000,
            "refresh.rows": 20_000,
        }
    if augment == "edis":
        values |= {"augment.energy_batch": 64, "augment.negatives": 4}
    if family == "toy":
        values |= {"offline.steps": 0 if scratch else 4_000, "online.steps": 4_000}
        values |= {"online.start_steps": 500, "online.capacity": 10_000}
        values |= {"refresh.every": 2_000, "refresh.min_online": 500, "refresh.rows": 5_000}
        values |= {"evaluate.offline_every": 1_000, "evaluate.online_every": 1_000}
    return values


def _reduced_stratdiff() -> dict[str, Any]:
    """StratDiff with networks and solver small enough for a few CPU cores."""
    return {
        "stratify.widths": (128, 64, 32),
        "stratify.energy_hidden": (64, 64, 64, 64),
        "stratify.time_scale": 4.0,
        "stratify.sampler_steps": 4,  # from there 7 % of marks differ from 60 of t = 1 (benchmarks/proposals.py)
        "stratify.sampler_start": 3.0,
        "stratify.behavior_steps": 10_000,
        "stratify.behavior_batch": 256,
        "stratify.behavior_lr": 1e-3,
        "stratify.ema_decay": 0.995,
        "stratify.cached_states": 4_096,
        "stratify.cached_online": 4_096,
        "stratify.energy_steps": 5_000,
        "stratify.energy_batch": 32,
        "stratify.energy_lr": 1e-3,
        "stratify.q_standardise": True,  # the labels of a reward scale of 1,000 would be one-hot
        "stratify.gain_rows": 0,  # the gain in Q is a tenth of a step's time here
    }


def _smoke(config: TrainConfig, scratch: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "offline.steps": 0 if scratch else 400,
        "offline.updates_per_call": 50,
        "mix.batch_size": 64,
        "online.steps": 400,
        "online.start_steps": 100,
        "online.capacity": 1_000,
        "refresh.every": 200,
        "refresh.min_online": 100,
        "refresh.rows": 500,
        "refresh.chunk": 250,
        "refresh.fit_steps_per_call": 50,
        "evaluate.offline_every": 200,
        "evaluate.online_every": 200,
        "evaluate.episodes": 2,
        "log.every": 100,
        "seeds": 2,
    }
    if choice(config, "agent") in ("apl_cql", "apl_td3bc"):
        values |= {"online.update_every": 100}
    small: dict[str, Any] = {
        "agent.hidden": (32, 32), "agent.critic_hidden": (32, 32), "agent.actions": 4, "mix.gate": 150,
        "augment.width": 32, "augment.dim_t": 16, "augment.steps": 100, "augment.sampler_steps": 8,
        "augment.energy_batch": 8, "augment.negatives": 2, "augment.energy_steps": 3, "augment.energy_hidden": (32, 32),
        "stratify.widths": (32, 16), "stratify.energy_hidden": (32, 32), "stratify.supports": 4,
        "stratify.behavior_steps": 60, "stratify.behavior_batch": 64, "stratify.cached_states": 60,
        "stratify.cached_online": 30, "stratify.support_chunk": 20, "stratify.energy_steps": 50,
        "stratify.energy_batch": 16,
    }  # fmt: skip
    known = leaf_paths(config)
    values |= {path: value for path, value in small.items() if path in known}
    if choice(config, "agent") in ("apl_cql", "apl_td3bc"):
        values |= {"online.update_every": 40}
    if scratch:
        values |= {"online.random_steps": 100}
    return values
