"""The online phase: one dispatch per environment step on simulators of the host, one per chunk on pure-JAX ones.

while t < online.steps:
    events due at t                                    log, evaluate, refresh, checkpoint
    result <- env.step(actions)                        all seeds at once
    state, actions <- online_step(state, result)       insert S rows; draw, mark, UTD updates; act
"""

from __future__ import annotations

from cfdg_jax.training.drivers import make_driver
from cfdg_jax.training.learn import learn
from cfdg_jax.training.session import Session, block
from cfdg_jax.types import Counts

BLOCK_UPDATES = 250
"""Updates per dispatch inside a block of updates (``online.update_every > 1``)."""


def improve(session: Session) -> None:
    """Runs the online phase from the session's step to its end.

    Raises:
      Interrupted: between two environment steps, if a signal arrived.
    """
    config = session.program.config.online
    driver = make_driver(session)
    session.loop_arrays = driver.arrays
    try:
        session.pretrain_generator()
        with session.clock("online"), session.progress.bar("online", config.steps, session.step) as bar:
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
                if session.step > config.start_steps:
                    session.first_update()
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
    """``update_every * utd`` updates in a row, as actor-critics with long blocks are trained."""
    counts, program = _counts(session), session.program
    if counts is None:
        return
    left = program.config.online.update_every * program.config.online.utd
    while left:
        updates = min(left, BLOCK_UPDATES)
        session.state, session.meters = learn(
            program, session.state, session.meters, program.offline_rows, counts, updates
        )
        left -= updates
    block(session.state.step)
