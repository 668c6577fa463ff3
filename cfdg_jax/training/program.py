"""A run's static half: config, task, transforms, offline rows and the four methods. Data only.

What is done with it are functions that take the program first::

    prepare    fresh state, the stratifier's stages, the hand-over
    learn      draw K.B rows, mark, K updates                       (one dispatch per K updates, all seeds)
    act        insert S rows, learn, next actions                   (one dispatch per environment step)
    generate   fit the generator, make rows

`compiled` compiles such a function once per program. Arrays enter as arguments, never as closure constants; state and
buffers are donated; offline rows are shared by all seeds. ``S`` counts lanes: seeds, at every value of ``--vmap``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cfdg_jax.config import TrainConfig
from cfdg_jax.core.seeds import over_seeds, purpose_key, seed_keys
from cfdg_jax.data.returns import ReturnRule
from cfdg_jax.data.transforms import Transforms
from cfdg_jax.methods import Agent, Augmenter, Mix, Stratifier
from cfdg_jax.training.devices import on_each
from cfdg_jax.training.lanes import Settings, make_methods
from cfdg_jax.training.stopwatch import compiling
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
      settings: What the lanes differ in, `[S]` each. The methods above are those of the first lane, and what they say
        of themselves (steps, shares, stages) holds for all.
      mesh: The devices that share the lanes; None for one.
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
    settings: Settings = dataclasses.field(default_factory=dict)
    mesh: Mesh | None = None
    kept: dict[Any, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)


def keys_of(program: Program) -> Key:
    """`[S]` keys of the run's lanes; those of one seed are equal."""
    config = program.config
    keys = seed_keys(config.run_key, config.seeds, config.first_seed)
    return jnp.tile(keys, len(config.lanes) // config.seeds) if config.vmap else keys


def agent_of(program: Program, phase: str) -> Agent:
    """The agent of the phase that is called ``online``, or of the phases before it."""
    return program.online_agent if phase == "online" else program.offline_agent


def each_seed(program: Program, fn: Callable, in_axes: Sequence[int | None], repeats: bool = False) -> Callable:
    """``fn(program, *args)`` over the seed axis of the arguments, the way the run compiles it.

    `fn` is given the program of its own lane. Where it `repeats`, computing many times with the same networks, ``auto``
    lets a CPU take one seed after the other, which keeps all its cores busy (docs/results.md, every agent). Only a
    batch of seeds fills an accelerator.
    """
    how = program.config.seed_axis
    if how == "auto":
        how = "scan" if repeats and jax.default_backend() == "cpu" else "vmap"
    return _of_lanes(program, fn, in_axes, functools.partial(over_seeds, how=how))


def at_once(program: Program, fn: Callable) -> Callable:
    """`each_seed` of arguments that all lead with S, batched whatever ``seed_axis`` says."""
    return lambda *args: _of_lanes(program, fn, (0,) * len(args), jax.vmap)(*args)


def _of_lanes(program: Program, fn: Callable, in_axes: Sequence[int | None], batched: Callable) -> Callable:
    if not program.settings:
        return batched(functools.partial(fn, program), tuple(in_axes))
    one = lambda settings, *args: fn(at_setting(program, settings), *args)
    return functools.partial(batched(one, (0, *in_axes)), program.settings)


def at_setting(program: Program, settings: Settings) -> Program:
    """The program of one lane; `settings` `[]`."""
    return dataclasses.replace(program, **make_methods(program.config, program.spec, settings), settings={})


class Bound:
    """A jitted function of a program's settings and arrays, given the settings."""

    def __init__(self, jitted: Any, settings: Settings):
        self._jitted, self._settings = jitted, settings

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._jitted(self._settings, *args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        return self._jitted.trace(self._settings, *args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        return self._jitted.lower(self._settings, *args, **kwargs)

    def _cache_size(self) -> int:
        return self._jitted._cache_size()


class Compiled(Generic[P, R]):
    """A function of a program and arrays that is compiled once per program.

    The program holds the compiled function, so that both are freed together. Its settings are arguments too, so that
    other values of the same fields find the same executable.
    """

    def __init__(self, fn: Callable[Concatenate[Program, P], R], **options: Any):
        self.plain, self._options = fn, options
        functools.update_wrapper(self, fn)

    def of(self, program: Program) -> Any:
        """The jitted function of the other arguments, for `lower`, `eval_shape` and the like."""
        if self.plain not in program.kept:
            program.kept[self.plain] = self._jitted(program)
        return program.kept[self.plain]

    def _jitted(self, program: Program) -> Any:
        if not program.settings and program.mesh is None:
            return jax.jit(functools.partial(self.plain, program), **self._options)
        mesh, statics = program.mesh, self._options["static_argnames"]
        own, *others = inspect.signature(self.plain).parameters.values()
        signature = inspect.Signature([own.replace(name="settings"), *others])

        def fn(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            static = {name: value for name, value in given.arguments.items() if name in statics}
            arrays = {name: value for name, value in given.arguments.items() if name not in statics}
            run = lambda arrays: self._run(program, **arrays, **static)
            return run(arrays) if mesh is None else on_each(mesh, run, arrays)

        functools.update_wrapper(fn, self.plain)
        setattr(fn, "__signature__", signature)  # noqa: B010
        return Bound(jax.jit(fn, **self._options), program.settings)

    def _run(self, program: Program, settings: Settings, **arguments: Any) -> Any:
        return self.plain(dataclasses.replace(program, settings=settings), **arguments)  # type: ignore[call-arg]

    def ahead(self, program: Program, *args: P.args, **kwargs: P.kwargs) -> None:
        """Begins to compile a call beside other work; the next call waits for it, and fails if this does."""
        lowered = self.of(program).lower(*args, **kwargs)  # not in the thread: it would hold Python's lock

        def compile_it() -> None:
            with contextlib.suppress(Exception):
                lowered.compile()

        program.kept[Compiled.ahead, self.plain] = thread = threading.Thread(target=compile_it)
        thread.start()

    def __call__(self, program: Program, *args: P.args, **kwargs: P.kwargs) -> R:
        thread = program.kept.pop((Compiled.ahead, self.plain), None)
        if thread is not None:
            with compiling():
                thread.join()
        return self.of(program)(*args, **kwargs)


def compiled(
    *, static: tuple[str, ...] = (), donate: tuple[str, ...] = ()
) -> Callable[[Callable[Concatenate[Program, P], R]], Compiled[P, R]]:
    """Decorates ``fn(program, *arrays)``; `static` arguments are hashable, `donate` gives arrays away."""
    return lambda fn: Compiled(fn, static_argnames=static, donate_argnames=donate)


def env_seed(config: TrainConfig, lane: int, purpose: str, *numbers: int) -> int:
    """An integer seed for a simulator, a function of the run, the lane's seed and the purpose alone."""
    seed = config.first_seed + lane % config.seeds
    key = purpose_key(jax.random.fold_in(jax.random.key(config.run_key), seed), purpose)
    entropy = [int(word) for word in np.asarray(jax.random.key_data(key)).ravel()] + list(numbers)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
