"""What D4RL's dynamics change in the returns of the shipped expert policy of Hopper, beside today's MuJoCo.

    python benchmarks/dynamics_returns.py

Prints the mean return with its standard error, without noise on the action and with a standard deviation of 0.6.
"""

from __future__ import annotations

import numpy as np

from cfdg_jax.data.behaviours import ASSETS
from cfdg_jax.data.collect import load_policies
from cfdg_jax.envs.registry import make_env

EPISODES = 300


def returns(dynamics: str, noise: float) -> np.ndarray:
    """Returns of `EPISODES` first episodes, one per environment."""
    policy = load_policies(ASSETS / "hopper-policies.npz")["expert"]
    env, rng = make_env("hopper", range(EPISODES), dynamics), np.random.default_rng(0)
    obs, total, running = env.reset(), np.zeros(EPISODES), np.ones(EPISODES, bool)
    while running.any():
        action = policy(obs, rng) + noise * rng.standard_normal((EPISODES, env.spec.act_dim))
        result = env.step(action)
        total += running * result.reward
        running &= ~(result.terminal | result.truncated)
        obs = result.next_obs
    env.close()
    return total


if __name__ == "__main__":
    for noise in (0.0, 0.6):
        for dynamics in ("gymnasium", "d4rl"):
            found = returns(dynamics, noise)
            print(f"noise {noise}  {dynamics:<10} {found.mean():7.0f} +- {found.std(ddof=1) / len(found) ** 0.5:.0f}")
