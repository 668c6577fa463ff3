"""The online phase: one dispatch per environment step on simulators of the host, one per chunk on pure-JAX ones.

    while t < online.steps:
        events due at t                                    log, evaluate, refresh, checkpoint
        result <- env.step(actions)                        all seeds at once
        state, actions <- online_step(state, result)       insert S rows; draw, mark, UTD updates; act

A driver advances the environments; both kinds run `Program.insert_learn_act`.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.core.seeds import purpose_keys
from cfdg_jax.envs.registry import make_env
from cfdg_jax.training.evaluate import task_of
from cfdg_jax.training.program import Program, env_seed
from cfdg_jax.training.session import Session, block
from cfdg_jax.types import Array, Counts, Env, PureEnv

BLOCK_UPDATES = 250
"""Updates per dispatch inside a block of updates (``online.update_every > 1``)."""


class Driver(Protocol):
    """Advances the training environments of all seeds together with the learner."""

    most: int

    def advance(self, session: Session, steps: int, counts: Counts | None) -> None: ...

    def arrays(self) -> dict[str, np.ndarray]: ...

    def close(self) -> None: ...


def improve(session: Session) -> None:
    """Runs the online phase from the session's step to its end.

    Raises:
      Interrupted: between two environment steps, if a signal arrived.
    """
    config = session.program.config.online
    driver = make_driver(session)
    session.loop_arrays = driver.arrays
    try:
        with session.clock("online"), session.progress.bar("online", config.steps, session.step, unit="step") as bar:
            while True:
                session.events()
                if session.step >= config.steps:
                    return
                session.stop_if_asked()
                steps = session.boundary(driver.most, config.start_steps, config.random_steps - 1)
                if config.update_every > 1:
                    steps = min(steps, config.update_every - session.step % config.update_every)
                driver.advance(session, steps, _counts(session) if config.update_every == 1 else None)
                session.step += steps
                if config.update_every > 1 and session.step % config.update_every == 0:
                    _update_block(session)
                bar.update(steps)
    finally:
        session.loop_arrays = dict
        driver.close()


def _counts(session: Session) -> Counts | None:
    """Row counts of the batches from the current step on, or None while updates have not begun."""
    config = session.program.config
    if session.step < config.online.start_steps:
        return None
    shares = session.program.augmenter.shares if session.state.synthetic else {}
    return session.program.mix.counts(shares, session.program.offline_rows.shape[0])


def _update_block(session: Session) -> None:
    """``update_every * utd`` updates in a row (APL's rhythm: 1,000 steps, then 10,000 updates)."""
    counts, config = _counts(session), session.program.config.online
    if counts is None:
        return
    left = config.update_every * config.utd
    while left:
        updates = min(left, BLOCK_UPDATES)
        session.state, session.meters = session.program.learn(
            session.state, session.meters, session.program.offline_rows, counts, updates
        )
        left -= updates
    block(session.state.step)


def make_driver(session: Session) -> Driver:
    """A `PureDriver` for environments written in JAX, a `HostDriver` for all others."""
    config = session.program.config
    task, dynamics = task_of(session.program)
    seeds = [env_seed(config, seed, "train_env") for seed in range(config.seeds)]
    env = make_env(task, seeds, dynamics, config.env.threads)
    pure = getattr(env, "pure", None)
    if pure is not None:
        env.close()
        return PureDriver(pure, session)
    return HostDriver(env, session)


class HostDriver:
    """Steps simulators on the host; only the S actions leave the device between steps."""

    most = 25

    def __init__(self, env: Env, session: Session):
        self.env, seeds = env, session.program.config.seeds
        self.returns, self.lengths, self.success = np.zeros(seeds), np.zeros(seeds), np.zeros(seeds)
        saved = session.loop
        if "obs" in saved:
            env.reset()
            env.set_state({name.removeprefix("env/"): v for name, v in saved.items() if name.startswith("env/")})
            self.obs, self.action = saved["obs"], saved["action"]
            self.returns, self.lengths, self.success = saved["returns"], saved["lengths"], saved["success"]
        else:
            self.obs = env.reset()
            random = session.program.config.online.random_steps > 0
            obs = jnp.asarray(self.obs, jnp.float32)
            self.action = session.program.act(session.state, obs, jnp.asarray(0), random)

    def advance(self, session: Session, steps: int, counts: Counts | None) -> None:
        """`steps` environment steps of all seeds; `counts` None makes no updates."""
        program, random_steps = session.program, session.program.config.online.random_steps
        for t in range(session.step + 1, session.step + steps + 1):
            packet, done, lengths, returns = self._step(session)
            session.state, session.meters, self.action = program.online_step(
                session.state, session.meters, packet, np.int32(t), program.offline_rows, counts, t < random_steps
            )
            if done.any():
                session.state = program.end_episodes(session.state, done, lengths, returns)

    def _step(self, session: Session) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Steps the simulators.

        Returns:
          The packet `[S, 3 O + A + 2]` that `Program.insert_learn_act` takes; where episodes ended, lengths and
          returns of all so far.
        """
        action = np.asarray(self.action)
        result = self.env.step(action)
        self.returns, self.lengths = self.returns + result.reward, self.lengths + 1
        self.success = np.maximum(self.success, result.success)
        done, lengths, returns = result.terminal | result.truncated, self.lengths, self.returns
        current = result.next_obs
        if done.any():
            session.episodes.add(done, self.returns, self.lengths, self.success)
            self.returns, self.lengths, self.success = (
                np.where(done, 0.0, x) for x in (self.returns, self.lengths, self.success)
            )
            current = self.env.reset(done)
        reward, terminal = result.reward[:, None], result.terminal[:, None]
        packet = np.concatenate(
            [self.obs, action, reward, result.next_obs, terminal, current], axis=1, dtype=np.float32
        )
        self.obs = current
        return packet, done, lengths, returns

    def arrays(self) -> dict[str, np.ndarray]:
        """What a checkpoint needs to continue the simulators bit for bit."""
        simulator = {f"env/{name}": np.asarray(value) for name, value in self.env.get_state().items()}
        loop = {"obs": self.obs, "action": self.action, "returns": self.returns}
        return (
            simulator
            | {k: np.asarray(v) for k, v in loop.items()}
            | {
                "lengths": self.lengths,
                "success": self.success,
            }
        )

    def close(self) -> None:
        self.env.close()


class PureDriver:
    """Runs environments written in JAX inside the learner's program: whole chunks compile into one scan."""

    most = 250

    def __init__(self, env: PureEnv, session: Session):
        self._env, program, state = env, session.program, session.state
        zeros = lambda *shape: jnp.zeros((program.config.seeds, *shape))  # never one array twice: all are donated
        env_state = jax.jit(jax.vmap(env.reset))(purpose_keys(state.key, "env_reset", 0))
        self._carry: tuple = (env_state, zeros(program.spec.act_dim), zeros(), zeros(), zeros())
        if "pure/0" in session.loop:
            leaves, structure = jax.tree.flatten(self._carry)
            saved = [jnp.asarray(session.loop[f"pure/{i}"]) for i in range(len(leaves))]
            self._carry = jax.tree.unflatten(structure, saved)
        else:
            random = program.config.online.random_steps > 0
            action = program.act(state, jax.vmap(env.observe)(env_state), jnp.asarray(0), random)
            self._carry = (env_state, action, *self._carry[2:])
        self._scan = jax.jit(
            functools.partial(_scan_steps, program, env),
            static_argnames=("steps", "counts", "random"),
            donate_argnums=(0, 1, 2),
        )

    def advance(self, session: Session, steps: int, counts: Counts | None) -> None:
        """`steps` environment steps of all seeds in one dispatch."""
        random = session.step + steps < session.program.config.online.random_steps
        session.state, session.meters, self._carry, ended = self._scan(
            session.state, session.meters, self._carry, np.int32(session.step), session.program.offline_rows,
            steps=steps, counts=counts, random=random,
        )  # fmt: skip
        for done, returns, lengths, success in zip(*map(np.asarray, ended), strict=True):
            if done.any():
                session.episodes.add(done, returns, lengths, success)

    def arrays(self) -> dict[str, np.ndarray]:
        """What a checkpoint needs to continue the environments bit for bit."""
        return {f"pure/{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(self._carry))}

    def close(self) -> None:
        """Nothing to free."""


def _scan_steps(
    program: Program, env: PureEnv, state, meters, carry: tuple, start: Array, offline_rows: Array,
    steps: int, counts: Counts | None, random: bool,
):  # fmt: skip
    """`steps` steps of all seeds; returns the state, meters, carry and ended episodes, each `[steps, S]`."""

    def body(loop: tuple, t: Array) -> tuple[tuple, Any]:
        state, meters, (env_state, action, returns, lengths, success) = loop
        obs = jax.vmap(env.observe)(env_state)
        env_state, result = jax.vmap(env.step)(env_state, action)
        returns, lengths = returns + result.reward, lengths + 1
        success = jnp.maximum(success, result.success)
        done = result.terminal | result.truncated
        fresh = jax.vmap(env.reset)(purpose_keys(state.key, "env_reset", t))
        pick = lambda new, old: jnp.where(done.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)
        env_state = jax.tree.map(pick, fresh, env_state)
        current = jax.vmap(env.observe)(env_state)
        columns = [obs, action, result.reward[:, None], result.next_obs, result.terminal[:, None], current]
        packet = jnp.concatenate([column.astype(jnp.float32) for column in columns], axis=1)
        state, meters, action = program.insert_learn_act(state, meters, packet, t, offline_rows, counts, random)
        state = program.close_episodes(state, done, lengths, returns)
        ended = (done, returns, lengths, success)
        returns, lengths, success = (jnp.where(done, 0.0, x) for x in (returns, lengths, success))
        return (state, meters, (env_state, action, returns, lengths, success)), ended

    times = start + 1 + jnp.arange(steps)
    (state, meters, carry), ended = jax.lax.scan(body, (state, meters, carry), times)
    return state, meters, carry, ended
