"""The dynamics that logged D4RL, restored on today's MuJoCo.

D4RL's ``-v2`` locomotion sets were recorded with mujoco-py, that is MuJoCo 2.1.0 or older. Since then

* MuJoCo 2.1.2 computes the mass and inertia of capsules exactly; before, a capsule of radius r and half-length h
  weighed as a cylinder of radius r and half-length h + r/2;
* MuJoCo 3.5.0 takes the *sum* of two geoms' margins as the margin of their contact; before, the larger of the two;
* MuJoCo 4.0.0 integrates rotations to fourth order in its RK4; before, a rotation was advanced by the weighted mean of
  the stages' velocities, which is second order (measured on a free box; 3.17.0 still is).

The first changes all four robots, the second Hopper and Ant, the third Ant, the only one with a free joint. With all
of them undone, one-step replay of mujoco-py recordings agrees to float32 rounding. With them left in, the first step is
off by 1e-2 or more (`tests/test_envs_dynamics.py`, docs/environments.md).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import mujoco
import numpy as np

from cfdg_jax.errors import require

_MARGINS_ADD_SINCE = (3, 5)
_ROTATIONS_FOURTH_ORDER_SINCE = (4, 0)
_VERSION = tuple(int(part) for part in mujoco.__version__.split(".")[:2])

Advance = Callable[[mujoco.MjModel, mujoco.MjData, int], None]
"""``(model, data, steps)``: runs the simulator for a number of its time steps, as `mujoco.mj_step` does."""


def check_dynamics(dynamics: str) -> None:
    """`UserError` unless `dynamics` is ``gymnasium`` or ``d4rl``."""
    require(dynamics in ("gymnasium", "d4rl"), "env.dynamics", f"is {dynamics!r}", "choose gymnasium or d4rl")


@contextlib.contextmanager
def quiet_models() -> Iterator[None]:
    """Silences the warnings that building Gymnasium's ``-v4`` models prints: their age, old attributes in the XML.

    Without it MuJoCo also leaves a ``MUJOCO_LOG.TXT`` in the working directory. Errors are not affected.
    """
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        mujoco.set_mju_user_warning(previous)


def restore_margins(model: mujoco.MjModel) -> None:
    """Gives contacts the margins they had before MuJoCo 3.5, in place.

    Halving every margin makes the sum of two equal margins their maximum again, so all geoms must share one margin, as
    they do in Gymnasium's robots.
    """
    if _VERSION < _MARGINS_ADD_SINCE:
        return
    if (model.geom_margin != model.geom_margin[0]).any() or (model.geom_gap != model.geom_gap[0]).any():
        raise ValueError("geoms with different margins: halving them does not restore the maximum rule")
    model.geom_margin *= 0.5
    model.geom_gap *= 0.5


def restore_capsule_inertia(model: mujoco.MjModel, xml_path: str) -> None:
    """Gives bodies the masses and inertias they had before MuJoCo 2.1.2, in place.

    The model file is compiled again. Each capsule becomes massless, and a cylinder of the old formula's size, which
    collides with nothing, takes its place. So MuJoCo's compiler applies densities and ``settotalmass`` itself.

    Args:
      model: The compiled model to change.
      xml_path: The file it was compiled from.
    """
    spec = mujoco.MjSpec.from_file(xml_path)
    exact = spec.compile()
    # A geom's id follows its place among all geoms, so it is read before any is added.
    capsules = [(geom, geom.id) for geom in spec.geoms if geom.type == mujoco.mjtGeom.mjGEOM_CAPSULE]
    for geom, index in capsules:
        radius, half_length, _ = exact.geom_size[index]
        geom.parent.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[radius, half_length + radius / 2, 0],
            pos=exact.geom_pos[index],
            quat=exact.geom_quat[index],
            density=geom.density,
            mass=geom.mass,
            group=geom.group,
            contype=0,
            conaffinity=0,
        )
        geom.mass = 0
    cylinders = spec.compile()
    for field in ("body_mass", "body_inertia", "body_ipos", "body_iquat"):
        getattr(model, field)[:] = getattr(cylinders, field)
    mujoco.mj_setConst(model, mujoco.MjData(model))


def mean_velocity_rk4(model: mujoco.MjModel, data: mujoco.MjData, steps: int) -> None:
    """Runge-Kutta of order 4 as MuJoCo had it before 4.0: an `Advance`.

    Positions move by the weighted mean of the stages' velocities in a single rotation, from where the step began.
    """
    interval = model.opt.timestep
    qpos, qvel, qacc = data.qpos, data.qvel, data.qacc
    for _ in range(steps):
        mujoco.mj_checkPos(model, data)
        mujoco.mj_checkVel(model, data)
        mujoco.mj_forward(model, data)
        mujoco.mj_checkAcc(model, data)
        time, position, velocity = data.time, qpos.copy(), qvel.copy()
        velocities, accelerations = [velocity], [qacc.copy()]
        for share in (0.5, 0.5, 1.0):
            qpos[:] = position
            mujoco.mj_integratePos(model, qpos, velocities[-1], share * interval)
            qvel[:] = velocity + share * interval * accelerations[-1]
            data.time = time + share * interval
            mujoco.mj_forwardSkip(model, data, mujoco.mjtStage.mjSTAGE_NONE, 1)
            velocities.append(qvel.copy())
            accelerations.append(qacc.copy())
        qpos[:] = position
        mujoco.mj_integratePos(model, qpos, _rk4_mean(*velocities), interval)
        qvel[:] = velocity + interval * _rk4_mean(*accelerations)
        data.time = time + interval


def _rk4_mean(first: np.ndarray, second: np.ndarray, third: np.ndarray, fourth: np.ndarray) -> np.ndarray:
    return (first + 2.0 * (second + third) + fourth) / 6.0


def restore_d4rl_dynamics(model: mujoco.MjModel, xml_path: str) -> Advance:
    """``dynamics="d4rl"``: changes `model` in place and returns how to step it."""
    restore_margins(model)
    restore_capsule_inertia(model, xml_path)
    rotating = np.isin(model.jnt_type, [mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_BALL]).any()
    runge_kutta = model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
    if runge_kutta and rotating and _VERSION >= _ROTATIONS_FOURTH_ORDER_SINCE:
        return mean_velocity_rk4
    return mujoco.mj_step
