"""Agents by config, and refused."""

import dataclasses

import pytest
from settings import setting

from cfdg_jax.agents import cql, td3bc
from cfdg_jax.agents.registry import AGENTS, make_agent
from cfdg_jax.errors import UserError
from cfdg_jax.methods import Agent
from cfdg_jax.types import Spec

SPEC = Spec(obs_dim=4, act_dim=2, horizon=10)


@pytest.mark.parametrize("name", AGENTS)
def test_a_default_config_makes_an_agent(name):
    config = AGENTS[name].config()
    assert dataclasses.is_dataclass(config) and config.__dataclass_params__.frozen
    for agent in (make_agent(config, SPEC), make_agent(config, SPEC, "online", 100)):
        assert isinstance(agent, Agent)


def test_a_foreign_config_is_refused():
    with pytest.raises(UserError, match=r"^Spec: is not the config of a registered method; valid: iql"):
        make_agent(SPEC, SPEC)
    with pytest.raises(UserError, match=r"^str: is not the config of a registered method; valid: iql"):
        make_agent("iql", SPEC)


PUBLISHED = {
    # implicit_q_learning
    "iql": {"expectile": 0.7, "temperature": 3.0, "advantage_limit": 100.0, "discount": 0.99, "tau": 0.005,
            "hidden": (256, 256), "critics": 2, "learning_rate": 3e-4, "anneal": "offline",
            "log_std_range": (-5.0, 2.0), "order": "jax", "q_loss": "sum", "advantage": "target"},
    # PEX's README and code
    "pex": {"expectile": 0.9, "temperature": 10.0, "inverse_temperature": 10.0, "epsilon": 0.1, "evaluation": "argmax",
            "iql.reset_optimiser_online": True, "iql.copy_to_target": False, "discount": 0.99, "tau": 0.005,
            "learning_rate": 3e-4, "hidden": (256, 256)},
    # rlkit's AWAC on locomotion
    "awac": {"advantage_scale": 2.0, "discount": 0.99, "tau": 0.005, "hidden": (256,) * 4, "critic_hidden": (256, 256),
             "learning_rate": 3e-4, "weights": "softmax", "seen": "before", "log_std_range": (-6.0, 0.0)},
    # CORL on locomotion
    "cql": {"actions": 10, "importance_weights": True, "softmax_temperature": 1.0, "penalty_weight": 10.0,
            "lagrange_gap": None, "penalty_min": None, "calibrate": "never", "backup": "sample",
            "entropy_backup": False, "critic_hidden": (256, 256, 256), "policy_learning_rate": 3e-5,
            "learning_rate": 3e-4, "log_std_range": (-20.0, 2.0), "log_std_affine": True,
            "order": "joint", "tau": 0.005, "init_log_multiplier": 1.0},
    # its authors on AntMaze
    "calql": {"hidden": (256, 256), "critic_hidden": (256, 256, 256, 256), "policy_learning_rate": 1e-4,
              "learning_rate": 3e-4, "penalty_weight": 5.0, "lagrange_gap": 0.8, "calibrate": "always",
              "online_bound": "return", "backup": "max", "entropy_backup": False, "actions": 10, "layer_norm": False,
              "log_std_range": (-20.0, 2.0), "log_std_affine": True, "order": "joint", "online_penalty_share": 1.0},
    # APL's GCQL.py
    "apl_cql": {"critics": 5, "subset": 2, "policy_q": "mean", "policy_learning_rate": 1e-4, "learning_rate": 3e-4,
                "penalty_weight": 5.0, "actions": 10, "entropy_backup": False, "log_std_range": (-5.0, 2.0),
                "log_std_affine": False, "critic_hidden": (256, 256, 256), "hidden": (256, 256, 256),
                "order": "alpha_first"},
    # TD3_BC.py
    "td3bc": {"alpha": 2.5, "delay": 2, "target_noise": 0.2, "explore_noise": 0.1,
              "bc_loss": "mean", "bc_weight": 1.0, "hidden": (256, 256), "learning_rate": 3e-4, "tau": 0.005},
    "sac": {"critics": 2, "subset": 0, "policy_q": "min", "q_loss": "sum", "order": "critic_first",
            "layer_norm": False, "target_entropy_scale": 1.0, "entropy_backup": True, "policy_delay": 1,
            "init_temperature": 1.0, "learning_rate": 3e-4, "tau": 0.005},
    "redq": {"critics": 10, "subset": 2, "target_rule": "min", "policy_q": "mean", "q_loss": "sum", "order": "joint",
             "layer_norm": False, "temperature_loss": "log_alpha", "policy_delay": None,
             "log_std_range": (-20.0, 2.0), "density_epsilon": 1e-6, "init": "xavier", "entropy_backup": True},
    "rlpd": {"critics": 10, "subset": 2, "policy_q": "mean", "q_loss": "mean", "layer_norm": True,
             "order": "critic_first", "target_entropy_scale": 0.5, "entropy_backup": True, "policy_delay": None,
             "log_std_range": (-20.0, 2.0), "density_epsilon": 0.0, "init": "xavier", "hidden": (256, 256),
             "init_temperature": 1.0, "temperature_loss": "alpha"},
}  # fmt: skip
"""What released code and papers give (docs/algorithms.md); `docs/differences.md` has what departs from it."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_config_s_defaults_are_the_published_values(name):
    entry = AGENTS[name]
    assert {field: setting(entry.config(), entry, field) for field in PUBLISHED[name]} == PUBLISHED[name]


def test_what_no_release_changes_has_its_published_value():
    assert td3bc.NOISE_CLIP == 0.5
    for name in ("cql", "calql", "apl_cql"):
        actor = cql.parts(AGENTS[name].config(), SPEC, "offline").soft
        assert actor.target_entropy == -SPEC.act_dim and actor.delay == 1
