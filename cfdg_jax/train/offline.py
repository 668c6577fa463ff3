"""Pre-training: K fused updates of all seeds per dispatch.

while step < offline.steps:
    events due at step                      log, evaluate, checkpoint
    state <- offline_chunk(state, rows, K)  draw K.B rows, mark, scan K updates
"""

from __future__ import annotations

from cfdg_jax.train.session import Session, block


def pretrain(session: Session) -> None:
    """Runs the offline phase from the session's step to its end.

    Raises:
      Interrupted: between two dispatches, if a signal arrived.
    """
    program, config = session.program, session.program.config.offline
    with (
        session.clock("offline"),
        session.progress.bar("offline", config.steps, session.step, unit="update") as bar,
    ):
        while True:
            session.events()
            if session.step >= config.steps:
                return
            session.stop_if_asked()
            updates = session.boundary(config.updates_per_call)
            session.state, session.meters = program.offline_chunk(
                session.state, session.meters, program.offline_rows, updates
            )
            block(session.state.step)
            session.step += updates
            bar.update(updates)
