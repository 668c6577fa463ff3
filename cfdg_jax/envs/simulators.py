"""Many simulators of one task in MuJoCo, stepped in native threads, and their generators: what environments share."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np

from cfdg_jax.core.machine import cores
from cfdg_jax.envs.dynamics import Advance
from cfdg_jax.envs.generators import check_seeds, make_generator, pack_generators, unpack_generators
from cfdg_jax.errors import require

_FULL_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_LOOP_UP_TO = 4  # environments that a plain loop steps at least as fast as two threads (measured; 5 are even)


class Simulators:
    """`num` simulators, each with its own generator and episode clock.

    Attributes:
      model: The first model.
      models: One for each, all the same object unless given apart.
      datas: One `mujoco.MjData` for each.
      generators: One NumPy generator for each, seeded as Gymnasium seeds.
      elapsed: `[num]` int64, steps of the running episodes.
      qpos, qvel: Arrays that look into the simulators' memory; fetching them at every step costs more than reading.

    Args:
      model: The compiled model, shared by all and left as it is, or one of its own for each.
      advance: What runs it, as `mujoco.mj_step` does.
      frame_skip: Simulator steps per environment step.
      seeds: One non-negative seed for each.
      threads: Threads that step them; 0 chooses by number and cores.
    """

    def __init__(
        self,
        model: mujoco.MjModel | Sequence[mujoco.MjModel],
        advance: Advance,
        frame_skip: int,
        seeds: Sequence[int],
        threads: int = 0,
    ):
        require(threads >= 0, "threads", f"is {threads}", "must be 0 (choose) or more")
        seeds = check_seeds(seeds)
        self.num = len(seeds)
        self.models = [model] * self.num if isinstance(model, mujoco.MjModel) else list(model)
        self.model = self.models[0]
        self.datas = [mujoco.MjData(each) for each in self.models]
        self.generators = [make_generator(seed) for seed in seeds]
        self.elapsed = np.zeros(self.num, np.int64)
        self.qpos = [data.qpos for data in self.datas]
        self.qvel = [data.qvel for data in self.datas]
        self._ctrl = [data.ctrl for data in self.datas]
        self._advance, self._frame_skip = advance, frame_skip
        self._start_threads(threads)

    def _start_threads(self, threads: int) -> None:
        if threads == 0:
            threads = 1 if self.num <= _LOOP_UP_TO else cores()
        threads = min(threads, self.num)
        bounds = np.linspace(0, self.num, threads + 1).astype(int)
        self._own_share, *self._shares = [range(low, high) for low, high in itertools.pairwise(bounds)]
        self._pool = ThreadPoolExecutor(threads - 1, "mujoco") if self._shares else None

    def advance(self, control: np.ndarray) -> None:
        """One environment step of all under `control` `[num, nu]`."""
        futures = [self._pool.submit(self._simulate, share, control) for share in self._shares] if self._pool else ()
        self._simulate(self._own_share, control)
        for future in futures:
            future.result()
        self.elapsed += 1

    def _simulate(self, share: range, control: np.ndarray) -> None:
        """Runs the simulators in `share`; MuJoCo releases the interpreter lock, so shares run side by side."""
        for i in share:
            self._ctrl[i][:] = control[i]
            self._advance(self.models[i], self.datas[i], self._frame_skip)

    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions `[num, nq]` and velocities `[num, nv]`."""
        return np.stack(self.qpos), np.stack(self.qvel)

    def restart(self, i: int, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Puts simulator `i` at a state, everything else as new, its episode at the beginning."""
        data = self.datas[i]
        mujoco.mj_resetData(self.models[i], data)
        data.qpos[:], data.qvel[:] = qpos, qvel
        mujoco.mj_forward(self.models[i], data)
        self.elapsed[i] = 0

    def get_state(self) -> dict[str, np.ndarray]:
        """``physics`` `[num, _]` MuJoCo's full integration state, warm starts included, ``elapsed`` `[num]` and
        ``generators`` `[num, 6]`."""
        physics = np.empty((self.num, mujoco.mj_stateSize(self.model, _FULL_STATE)))
        for row, data in zip(physics, self.datas, strict=True):
            mujoco.mj_getState(self.model, data, row, _FULL_STATE)
        return {"physics": physics, "elapsed": self.elapsed.copy(), "generators": pack_generators(self.generators)}

    def set_state(self, state: Mapping[str, np.ndarray], task: str) -> None:
        """Continues from what `get_state` returned; `UserError` if it is of another `task` or number."""
        expected = (self.num, mujoco.mj_stateSize(self.model, _FULL_STATE))
        found = np.shape(state["physics"])
        require(
            found == expected,
            "environment state",
            f"holds simulators of shape {found}",
            f"{task} under MuJoCo {mujoco.__version__} needs {expected}",
        )
        for row, data in zip(np.asarray(state["physics"], np.float64), self.datas, strict=True):
            mujoco.mj_setState(self.model, data, row, _FULL_STATE)
        self.elapsed = np.array(state["elapsed"], np.int64)
        unpack_generators(self.generators, np.asarray(state["generators"]))

    def close(self) -> None:
        """Ends the threads."""
        if self._pool:
            self._pool.shutdown()
