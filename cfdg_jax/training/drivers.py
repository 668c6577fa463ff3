"""What advances the training environments of all seeds together with the learner.

`HostDriver` steps simulators, one dispatch per step; `PureDriver` scans environments written in JAX inside the
learner's program, one dispatch per chunk of steps. Both send the learner a `Packet` per step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cfdg_jax.core.seeds import purpose_keys
from cfdg_jax.envs.registry import make_env
from cfdg_jax.errors import UserError, require
from cfdg_jax.training.act import (
    act,
    acting_step,
    close_episodes,
    end_episodes,
    insert_learn_act,
    learning_step,
    online_step,
)
from cfdg_jax.training.devices import placed
from cfdg_jax.training.evaluate import task_of
from cfdg_jax.training.meters import Meters
from cfdg_jax.training.packet import Packet
from cfdg_jax.training.program import Program, compiled, env_seed
from cfdg_jax.training.session import Session
from cfdg_jax.types import Array, Counts, Env, PureEnv, TrainState


class Driver(Protocol):
    """Advances the training environments of all seeds together with the learner."""

    most: int

    def advance(self, session: Session, steps: int, counts: Counts | None) -> None:
        """`steps` environment steps of all seeds; `counts` None makes no updates."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """What a checkpoint needs to continue the environments bit for bit."""
        ...

    def close(self) -> None: ...


def make_driver(session: Session) -> Driver:
    """A `PureDriver` for environments written in JAX, a `HostDriver` for all others."""
    config = session.program.config
    task, dynamics = task_of(session.program)
    seeds = [env_seed(config, lane, "train_env") for lane in range(len(config.lanes))]
    env = make_env(task, seeds, dynamics, config.env.threads, config.env.backend)
    pure = getattr(env, "pure", None)
    if pure is not None:
        env.close()
        return PureDriver(pure, session)
    return HostDriver(env, session)


def environment_remarks(program: Program) -> Iterator[str]:
    """What a user should know of the training environment before the run: what it cannot do or makes useless."""
    config = program.config
    if config.online.steps == 0:
        return
    task, dynamics = task_of(program)
    env = make_env(task, [0], dynamics, 1, config.env.backend)
    try:
        if getattr(env, "pure", None) is None:
            env.reset()
            env.get_state()
        elif config.online.overlap:
            what = "actions are one update old, but nothing overlaps: this environment is part of the learner's program"
            yield f"online.overlap: {what}; leave it off"
    except UserError as error:
        yield f"{error.problem}; an interrupted online phase of this run cannot be resumed"
    finally:
        env.close()


class HostDriver:
    """Steps simulators on the host; only the S actions leave the device between steps."""

    most = 25

    def __init__(self, env: Env, session: Session):
        self.env, lanes = env, len(session.program.config.lanes)
        self.returns, self.lengths, self.success = np.zeros(lanes), np.zeros(lanes), np.zeros(lanes)
        self.action: Array | np.ndarray
        saved = session.loop
        if "obs" in saved:
            env.reset()
            env.set_state({name.removeprefix("env/"): v for name, v in saved.items() if name.startswith("env/")})
            self.obs, self.action = saved["obs"], saved["action"]
            self.returns, self.lengths, self.success = saved["returns"], saved["lengths"], saved["success"]
        else:
            config = session.program.config.online
            problem = "cannot be saved, so an online phase that has begun cannot be resumed"
            remedy = f"start a new run from its pre-training: --from-offline {session.folder}"
            require(session.step in (0, config.steps), "env.task", f"its simulator {problem}", remedy)
            self.obs = env.reset()
            random = session.program.config.online.random_steps > 0
            obs = jnp.asarray(self.obs, jnp.float32)
            self.action = act(session.program, session.state, obs, jnp.asarray(0), random)

    def advance(self, session: Session, steps: int, counts: Counts | None) -> None:
        """See `Driver.advance`."""
        program, random_steps = session.program, session.program.config.online.random_steps
        for t in range(session.step + 1, session.step + steps + 1):
            packet, done, lengths, returns = self._step(session)
            step, random, rows = np.int32(t), t < random_steps, program.offline_rows
            if program.config.online.overlap:
                sent = placed(program.mesh, jnp.asarray(packet.pack()))
                self.action = acting_step(program, session.state, sent, step, random)
                session.state, session.meters = learning_step(
                    program, session.state, session.meters, sent, step, rows, counts
                )
            else:
                session.state, session.meters, self.action = online_step(
                    program, session.state, session.meters, packet.pack(), step, rows, counts, random
                )
            if done.any():
                session.state = end_episodes(program, session.state, done, lengths, returns)

    def _step(self, session: Session) -> tuple[Packet, np.ndarray, np.ndarray, np.ndarray]:
        """Steps the simulators; returns the packet, where episodes ended, and lengths and returns of all so far."""
        action = np.asarray(self.action)
        result = self.env.step(action)
        self.returns, self.lengths = self.returns + result.reward, self.lengths + 1
        self.success = np.maximum(self.success, result.success)
        done, lengths, returns = result.terminal | result.truncated, self.lengths, self.returns
        current = result.next_obs
        if done.any():
            session.episodes.add(done, lengths, returns, self.success)
            self.returns, self.lengths, self.success = (
                np.where(done, 0.0, x) for x in (self.returns, self.lengths, self.success)
            )
            current = self.env.reset(done)
        packet = Packet(self.obs, action, result.reward, result.next_obs, result.terminal, current)
        self.obs = current
        return packet, done, lengths, returns

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Driver.arrays`; nothing where the simulator cannot be saved."""
        try:
            simulator = self.env.get_state()
        except UserError:  # told when the run began
            return {}
        loop = {"obs": self.obs, "action": self.action, "returns": self.returns, "lengths": self.lengths}
        loop |= {"success": self.success} | {f"env/{name}": value for name, value in simulator.items()}
        return {name: np.asarray(value) for name, value in loop.items()}

    def close(self) -> None:
        self.env.close()


class PureDriver:
    """Runs environments written in JAX inside the learner's program: whole chunks compile into one scan."""

    most = 250

    def __init__(self, env: PureEnv, session: Session):
        self._env, program, state = env, session.program, session.state
        zeros = lambda *shape: jnp.zeros((len(program.config.lanes), *shape))  # never one array twice: all are donated
        env_state = jax.jit(jax.vmap(env.reset))(purpose_keys(state.key, "env_reset", 0))
        carry: tuple = (env_state, zeros(program.spec.act_dim), zeros(), zeros(), zeros())
        if "pure/0" in session.loop:
            leaves, structure = jax.tree.flatten(carry)
            saved = [jnp.asarray(session.loop[f"pure/{i}"]) for i in range(len(leaves))]
            carry = jax.tree.unflatten(structure, saved)
        else:
            random = program.config.online.random_steps > 0
            action = act(program, state, jax.vmap(env.observe)(env_state), jnp.asarray(0), random)
            carry = (env_state, action, *carry[2:])
        self._carry = placed(program.mesh, carry)

    def advance(self, session: Session, steps: int, counts: Counts | None) -> None:
        """See `Driver.advance`; one dispatch."""
        program = session.program
        random = session.step + steps < program.config.online.random_steps
        session.state, session.meters, self._carry, ended = scan_steps(
            program, session.state, session.meters, self._carry, np.int32(session.step), program.offline_rows,
            env=self._env, steps=steps, counts=counts, random=random,
        )  # fmt: skip
        session.episodes.add_later(ended)

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Driver.arrays`."""
        return {f"pure/{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(self._carry))}

    def close(self) -> None:
        """Nothing to free."""


@compiled(static=("env", "steps", "counts", "random"), donate=("state", "meters", "carry"))
def scan_steps(
    program: Program, state: TrainState, meters: Meters, carry: tuple, start: ArrayLike, offline_rows: Array,
    env: PureEnv, steps: int, counts: Counts | None, random: bool,
) -> tuple[TrainState, Meters, tuple, tuple]:  # fmt: skip
    """`steps` steps of all seeds; returns the state, meters, carry and ended episodes, each `[S, steps]`.

    An episode that ends is closed at the beginning of the next step: XLA would copy the ring, twice a step, if updates
    read it between two writes.
    """

    def body(loop: tuple, t: Array) -> tuple[tuple, Any]:
        state, meters, (env_state, action, returns, lengths, success), before = loop
        state = close_episodes(program, state, *before[:3])
        obs = jax.vmap(env.observe)(env_state)
        env_state, result = jax.vmap(env.step)(env_state, action)
        returns, lengths = returns + result.reward, lengths + 1
        success = jnp.maximum(success, result.success)
        done = result.terminal | result.truncated
        fresh = jax.vmap(env.reset)(purpose_keys(state.key, "env_reset", t))
        pick = lambda new, old: jnp.where(done.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)
        env_state = jax.tree.map(pick, fresh, env_state)
        current = jax.vmap(env.observe)(env_state)
        packet = Packet(obs, action, result.reward, result.next_obs, result.terminal, current).pack(jnp)
        state, meters, action = insert_learn_act(program, state, meters, packet, t, offline_rows, counts, random)
        ended = (done, lengths, returns, success)
        returns, lengths, success = (jnp.where(done, 0.0, x) for x in (returns, lengths, success))
        return (state, meters, (env_state, action, returns, lengths, success), ended), ended

    times, zeros = start + 1 + jnp.arange(steps), jnp.zeros_like(carry[-1])
    begun = (state, meters, carry, (zeros > 0, zeros, zeros, zeros))
    (state, meters, carry, last), ended = jax.lax.scan(body, begun, times)
    return close_episodes(program, state, *last[:3]), meters, carry, tuple(each.T for each in ended)
