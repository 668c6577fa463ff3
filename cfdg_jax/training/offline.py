"""Pre-training, of the agent and then of the stratifier: K fused updates of all seeds per dispatch.

while step < offline.steps:
    events due at step                      log, evaluate, checkpoint; the updates are compiled beside the first
    state <- offline_chunk(state, rows, K)  draw K.B rows, scan K updates
for each stage of the stratifier:
    state <- prepare_stratifier(...)        once for all seeds where the stage depends on the data alone
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from cfdg_jax.training.devices import placed
from cfdg_jax.training.learn import offline_chunk
from cfdg_jax.training.prepare import prepare_stratifier as prepare_chunk
from cfdg_jax.training.session import Session, block


def pretrain(session: Session) -> None:
    """Runs the offline phase from the session's step to its end.

    Raises:
      Interrupted: between two dispatches, if a signal arrived.
    """
    program, config = session.program, session.program.config.offline
    with (
        session.clock("offline"),
        session.progress.bar("offline", config.steps, session.step, "update", session.later()) as bar,
    ):
        if session.step < config.steps:  # compiled beside the first evaluation
            updates = session.boundary(config.updates_per_call)
            offline_chunk.ahead(program, session.state, session.meters, program.offline_rows, updates)
        while True:
            session.events()
            if session.step >= config.steps:
                return
            session.stop_if_asked()
            updates = session.boundary(config.updates_per_call)
            session.state, session.meters = offline_chunk(
                program, session.state, session.meters, program.offline_rows, updates
            )
            block(session.state.step)
            session.first_update()
            session.step += updates
            bar.update(updates)


def prepare_stratifier(session: Session) -> None:
    """Trains the stratifier's stages on the offline rows, from the session's step; nothing to do without stages.

    Raises:
      Interrupted: between two dispatches, if a signal arrived.
    """
    program, config = session.program, session.program.config
    stages = program.stratifier.stages
    ends = np.cumsum([stage.steps for stage in stages], dtype=int)
    if not stages:
        return
    total = int(ends[-1])
    with session.clock("stratify"), session.progress.bar("stratify", total, session.step, later=session.later()) as bar:
        while session.step < total:
            session.stop_if_asked()
            index = int(np.searchsorted(ends, session.step, side="right"))
            done = session.step - (int(ends[index]) - stages[index].steps)
            to_log = config.log.every - done % config.log.every
            steps = min(config.offline.updates_per_call, stages[index].steps - done, to_log)
            state, metrics = prepare_chunk(
                program, session.state, program.offline_rows, jnp.asarray(session.step), stages[index], steps
            )
            session.state = placed(program.mesh, session.state._replace(stratifier=state))
            block(metrics)
            session.step += steps
            if (done + steps) % config.log.every == 0 or session.step == ends[index]:
                values = {name: np.asarray(value) for name, value in metrics.items()}
                session.logger.metrics("stratify", session.step, values)
            bar.update(steps)
