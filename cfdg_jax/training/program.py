"""A run's static half: config, task, transforms, offline rows and the four methods. Data only.

What is done with it are functions that take the program first::

    prepare    fresh state, the stratifier's stages, the hand-over
    learn      draw K.B rows, mark, K updates                       (one dispatch per K updates, all seeds)
    act        insert S rows, learn, next actions                   (one dispatch per environment step)
    generate   fit the generator, make rows

`compiled` compiles such a function once per program. Arrays enter as arguments, never as closure constants; state and
buffers are donated; offline rows are shared by all seeds.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import jax
import numpy as np

from cfdg_jax.config import TrainConfig
from cfdg_jax.core.seeds import over_seeds, purpose_key, seed_keys
from cfdg_jax.data.returns import ReturnRule
from cfdg_jax.data.transforms import Transforms
from cfdg_jax.methods import Agent, Augmenter, Mix, Stratifier
from cfdg_jax.types import Array, Key, Spec

P = ParamSpec("P")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Everything about a run that is not state. Made by `cfdg_jax.training.build.build_program`.

    Attributes:
      config: The run's config, environment and dynamics resolved.
      spec: The task.
      transforms: Fitted on the offline data, applied online too.
      offline_rows: `[N, D]` packed rows on the device; N may be 0.
      returns: The rule of returns-to-go, its failure reward raw.
      offline_agent: The agent of the offline phase.
      online_agent: The same agent of the online phase; schedules may differ.
      augmenter: The generator of synthetic rows.
      mix: The mixing rule.
      stratifier: The stratifier.
      kept: What was compiled or traced for this program; goes with it.
    """

    config: TrainConfig
    spec: Spec
    transforms: Transforms
    offline_rows: Array
    returns: ReturnRule
    offline_agent: Agent
    online_agent: Agent
    augmenter: Augmenter
    mix: Mix
    stratifier: Stratifier
    kept: dict[Any, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)


def keys_of(program: Program) -> Key:
    """`[S]` keys of the run's seeds."""
    config = program.config
    return seed_keys(config.run_key, config.seeds, config.first_seed)


def agent_of(program: Program, phase: str) -> Agent:
    """The agent of the phase that is called ``online``, or of the phases before it."""
    return program.online_agent if phase == "online" else program.offline_agent


def each_seed(program: Program, fn: Callable, in_axes: Sequence[int | None]) -> Callable:
    """`fn` over the seed axis, the way the run compiles it."""
    return over_seeds(fn, in_axes, program.config.seed_axis)


class Compiled(Generic[P, R]):
    """A function of a program and arrays that is compiled once per program.

    The program holds the compiled function, so that both are freed together.
    """

    def __init__(self, fn: Callable[Concatenate[Program, P], R], **options: Any):
        self.plain, self._options = fn, options
        functools.update_wrapper(self, fn)

    def of(self, program: Program) -> Any:
        """The jitted function of the other arguments, for `lower`, `eval_shape` and the like."""
        if self.plain not in program.kept:
            program.kept[self.plain] = jax.jit(functools.partial(self.plain, program), **self._options)
        return program.kept[self.plain]

    def __call__(self, program: Program, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.of(program)(*args, **kwargs)


def compiled(
    *, static: tuple[str, ...] = (), donate: tuple[str, ...] = ()
) -> Callable[[Callable[Concatenate[Program, P], R]], Compiled[P, R]]:
    """Decorates ``fn(program, *arrays)``; `static` arguments are hashable, `donate` gives arrays away."""
    return lambda fn: Compiled(fn, static_argnames=static, donate_argnames=donate)


def env_seed(config: TrainConfig, seed: int, purpose: str, *numbers: int) -> int:
    """An integer seed for a simulator, a function of the run, the seed and the purpose alone."""
    key = purpose_key(jax.random.fold_in(jax.random.key(config.run_key), config.first_seed + seed), purpose)
    entropy = [int(word) for word in np.asarray(jax.random.key_data(key)).ravel()] + list(numbers)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
