"""Trains the behaviour policies that `local:` datasets are rolled out from.

    python benchmarks/train_behaviour.py halfcheetah --steps 400000      then: python benchmarks/choose_behaviour.py

An online agent learns from scratch under D4RL's dynamics in several simulators at once. Every `EVERY` steps its actor
is written, as float16, to ``<out>/<task>-<seed>/<step>.npz`` and what it earns to ``curve.json``; the same command
continues a run that was stopped. The task ``ant-goals`` is the ant of the mazes on open ground, which runs to goals
drawn around it (`benchmarks/goal_reaching.py`).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from cfdg_jax.agents.registry import make_agent
from cfdg_jax.config import named_choice
from cfdg_jax.core import ring
from cfdg_jax.data.collect import GaussianPolicy
from cfdg_jax.envs.registry import make_env
from cfdg_jax.types import Source

EVERY = 2_500
"""Environment steps between snapshots."""
SAVE_EVERY = 25_000
"""Environment steps between copies of the whole state, from which a run continues."""
RANDOM_STEPS = 5_000


def make_task(task: str, seeds: list[int]):
    """The environment a behaviour policy learns in."""
    if task == "ant-goals":
        from goal_reaching import GoalAnt

        return GoalAnt(seeds)
    return make_env(task, seeds, "d4rl", threads=1)


def numpy_actor(params, step: int = 0) -> GaussianPolicy:
    """The actor as it will be shipped, rounded to float16."""
    half = lambda x: np.asarray(x).astype(np.float16)
    return GaussianPolicy(
        tuple((half(params[f"l{i}"]["kernel"]), half(params[f"l{i}"]["bias"])) for i in range(len(params))), step
    )


def evaluate(policy: GaussianPolicy, env, seed: int) -> np.ndarray:
    """Returns `[num]` of one episode in each environment, actions drawn as they are logged."""
    rng, total = np.random.default_rng(seed), np.zeros(env.num)
    playing, obs = np.ones(env.num, bool), env.reset()
    while playing.any():
        result = env.step(np.clip(policy(obs, rng), -1.0, 1.0))
        total += playing * result.reward
        playing &= ~(result.terminal | result.truncated)
        obs = result.next_obs
    return total


class Learner:
    """An agent, its ring of rows and its simulators."""

    def __init__(
        self,
        task: str,
        agent: str,
        steps: int,
        seed: int,
        hidden: tuple[int, ...],
        copies: int,
        utd: float,
        rate: float,
        batch: int,
    ):
        self.env = make_task(task, [1_000 * seed + i for i in range(copies)])
        self.test = make_task(task, [1_000_000 + 1_000 * seed + i for i in range(5)])
        config = named_choice("agent", agent)
        wide = {"hidden": hidden, "critic_hidden": hidden} | ({"learning_rate": rate} if rate else {})
        config = dataclasses.replace(config, **{name: value for name, value in wide.items() if hasattr(config, name)})
        self.agent = make_agent(config, self.env.spec, "online", steps)
        self.batch = batch
        self.updates, self.layout = round(utd * copies), self.env.spec.layout
        self.key = jax.random.key(seed)
        self.state = jax.tree.map(jnp.array, jax.jit(self.agent.init)(jax.random.fold_in(self.key, -1 % 2**32)))
        self.buffer = ring.empty(steps, self.layout.width)
        self.act = jax.jit(lambda state, obs, key: self.agent.act(state, obs, key, True))
        self.learn = jax.jit(self._learn, donate_argnums=(0,))
        self.insert = jax.jit(ring.insert, donate_argnums=(0,))

    def _learn(self, state, buffer, key, step):
        draw, use = jax.random.split(key)
        rows = ring.sample(buffer, draw, self.updates * self.batch).reshape(self.updates, self.batch, -1)
        return self.agent.update(state, self.layout.unpack(rows), use, step)

    def advance(self, obs: np.ndarray, step: int) -> np.ndarray:
        """One step of every simulator and the updates that go with it; the next observations."""
        copies, key = self.env.num, jax.random.fold_in(self.key, step)
        if step < RANDOM_STEPS:
            action = np.random.default_rng(step).uniform(-1, 1, (copies, self.env.spec.act_dim)).astype(np.float32)
        else:
            action = np.asarray(self.act(self.state, jnp.asarray(obs, jnp.float32), key))
        result = self.env.step(action)
        fields = (obs, action, result.reward, result.next_obs, result.terminal, -np.inf, float(Source.ONLINE))
        self.buffer = self.insert(self.buffer, self.layout.pack(*fields, xp=np))
        if step >= RANDOM_STEPS:
            updated = (step - RANDOM_STEPS) // copies * self.updates
            self.state, _ = self.learn(self.state, self.buffer, jax.random.fold_in(key, 1), jnp.int32(updated))
        done = result.terminal | result.truncated
        return self.env.reset(done) if done.any() else result.next_obs

    def save(self, path: pathlib.Path, obs: np.ndarray, step: int) -> None:
        """Everything that `load` continues from, in one file that is whole or absent."""
        leaves = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves((self.state, self.buffer)))}
        env = {f"env/{name}": value for name, value in self.env.get_state().items()}
        part = path.with_suffix(".part.npz")
        np.savez(part, obs=obs, step=step, **leaves, **env)
        os.replace(part, path)

    def load(self, path: pathlib.Path) -> tuple[np.ndarray, int]:
        """Continues from what `save` wrote: the observations and the step."""
        with np.load(path) as file:
            saved = {name: file[name] for name in file.files}
        leaves, tree = jax.tree.flatten((self.state, self.buffer))
        found = [jnp.asarray(saved[f"leaf{i}"], leaf.dtype) for i, leaf in enumerate(leaves)]
        self.state, self.buffer = jax.tree.unflatten(tree, found)
        self.env.reset()
        self.env.set_state({name[4:]: value for name, value in saved.items() if name.startswith("env/")})
        return saved["obs"], int(saved["step"])


def snapshot(learner: Learner, folder: pathlib.Path, step: int, curve: dict[str, float], seconds: float) -> None:
    """Writes the actor and what it earns now."""
    policy = numpy_actor(learner.state.policy, step)
    earned = evaluate(policy, learner.test, step)
    curve[str(step)] = round(float(earned.mean()), 3)
    weights = {f"l{i}/{name}": x for i, pair in enumerate(policy.layers) for name, x in zip("Wb", pair, strict=True)}
    np.savez_compressed(folder / f"{step:07d}.npz", **weights)
    (folder / "curve.json").write_text(json.dumps(curve, indent=1))
    print(f"{time.strftime('%H:%M:%S')} step {step:>8} {seconds:8.0f} s   return {earned.mean():9.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("hopper", "halfcheetah", "walker2d", "ant-goals"))
    parser.add_argument("--agent", default="crossq")
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--copies", type=int, default=8, help="simulators at once")
    parser.add_argument("--utd", type=float, default=0.5, help="updates per environment step")
    parser.add_argument("--batch", type=int, default=128, help="rows of a minibatch")
    parser.add_argument("--rate", type=float, default=0.0, help="learning rate, 0 for the agent's own; lower it late")
    parser.add_argument("--hidden", type=int, default=128, help="width of the two layers of actor and critics")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time, to be continued")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/behaviour"))
    args = parser.parse_args()
    folder = args.out / f"{args.task}-{args.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    learner = Learner(
        args.task, args.agent, args.steps, args.seed, (args.hidden,) * 2, args.copies, args.utd, args.rate, args.batch
    )
    state_file, curve_file = folder / "state.npz", folder / "curve.json"
    obs, step = learner.load(state_file) if state_file.exists() else (learner.env.reset(), 0)
    curve = json.loads(curve_file.read_text()) if curve_file.exists() else {}
    curve = {at: value for at, value in curve.items() if int(at) < step}
    start, due = time.perf_counter(), functools.partial(lambda every, now: now % every < args.copies)
    with threadpool_limits(limits=1, user_api="blas"):
        while step <= args.steps:
            if due(EVERY, step):
                snapshot(learner, folder, step, curve, time.perf_counter() - start)
            late = time.perf_counter() - start > 60 * args.minutes
            if (due(SAVE_EVERY, step) and step) or late:
                learner.save(state_file, obs, step)
            if late:
                break
            obs = learner.advance(obs, step)
            step += args.copies


if __name__ == "__main__":
    main()
