"""Fixtures of the whole suite: light compilation, compile caches, and the files of reference numbers.

`golden_dir` is part of the project: the small variants of numbers that released implementations produced. The full-size
ones (`golden_full_dir`) and small real recordings (`data_dir`) are not. Tests that need them look in
``CFDG_REFERENCE_DIR`` or in a folder beside the repository, and skip, saying so, where neither exists.
"""

import ctypes
import dataclasses
import gc
import hashlib
import importlib.metadata
import os
import pathlib
import time
from collections.abc import Callable

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time goes into compiling programs that run for a moment; set XLA_FLAGS= to optimise as users do.
# Without the second flag jaxlib 0.10.2 at level 0 gives wrong gradients in the online step of a single seed, and with
# it still in SAC's, which is right at levels 1 to 3. In fewer parts
# (xla_cpu_parallel_codegen_split_count) programs compile 7 % faster and SAC's is wrong again. XLA aborts on flags it
# does not know, so that other releases, with which they were not tried, are left alone.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

import jax
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
if not os.environ.get("CI"):  # jaxlib 0.10.2 crashed once in thousands of writes; a fresh clone gains little by them
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".jax_cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


COMPILED = {}
"""What `compiled_once` keeps, by program, options and devices."""
MOST_COMPILED, WORTH_KEEPING = 100, 0.15
"""Programs that it keeps at most, and the seconds from which one is kept."""


def compiled_once(compile_and_load):
    """`compile_and_load` that compiles programs which are the same to the letter once a process.

    Each run has functions of its own, for which JAX compiles anew: a third of the compilation of tests that train.
    """

    def kept(backend, module, devices, options, host_callbacks):
        if host_callbacks:
            return compile_and_load(backend, module, devices, options, host_callbacks)
        program = cache_key._canonicalize_ir(module, cache_key.IgnoreCallbacks.NO)
        known_as = hashlib.sha256(program).digest(), options.SerializeAsString(), str(list(devices))
        made, begun = COMPILED.pop(known_as, None), time.monotonic()
        if made is None:
            made = compile_and_load(backend, module, devices, options, host_callbacks)
            if time.monotonic() - begun < WORTH_KEEPING:
                return made
        for key in list(COMPILED)[: 1 - MOST_COMPILED]:  # those that were asked for longest ago
            del COMPILED[key]
        COMPILED[known_as] = made
        return made

    return kept


if importlib.metadata.version("jax") == "0.10.2":  # both are no public names, and other releases may lack them
    from jax._src import cache_key, compiler

    compiler.backend_compile_and_load = compiled_once(compiler.backend_compile_and_load)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that train runs come first: `make test` gives whole files to its workers, which then end together."""
    items.sort(key=lambda item: not hasattr(getattr(item, "module", None), "toy_config"))


def pytest_collection_finish() -> None:
    """Python looks for garbage less often, and not in what was imported: a fifteenth of the suite's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


MUCH_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
"""Resident bytes from which a test process lets go of what it has compiled, between files; two run at once."""
MANY_MAPS = 50_000
"""Memory mappings from which it does so after any test: a run adds 2,000, and XLA aborts at Linux's 65,530."""
LOOKED = [0.0]
"""When they were last counted."""


PROGRAMS = {}
"""What `programs_are_shared` keeps, by config; a program with what is compiled takes some hundred megabytes."""
MOST_PROGRAMS = 12
PARTS = {}
"""What it keeps of functions that ask one method alone."""
OF_THE_LOOP = ("evaluate", "log", "checkpoint", "refresh")
"""Parts of a config that no compiled function reads; only the control of a refresh is looked at when a run is built."""
MEETS = {"_init_agent": "agent", "_init_stratifier": "stratify", "_init_mix": "mix"}
MEETS |= dict.fromkeys(("start_generator", "adopt_generator", "fit_generator", "generate"), "augment")
"""Compiled functions that ask one method alone."""


@pytest.fixture(scope="module")
def programs_are_shared():
    """Runs on the toy task whose configs differ in `OF_THE_LOOP` alone share what is compiled, most of their time.

    Runs that have one method in common share what asks that one alone.
    """
    from cfdg_jax.augment import denoiser
    from cfdg_jax.config import RefreshConfig, TrainConfig, resolved
    from cfdg_jax.training import results, run
    from cfdg_jax.training.build import load_program
    from cfdg_jax.training.program import Compiled

    def known_as(config):
        refresh = RefreshConfig(control=config.refresh.control)
        rest = {name: getattr(TrainConfig(), name) for name in OF_THE_LOOP} | {"refresh": refresh, "label": ""}
        return repr((dataclasses.replace(config, **rest), denoiser.resmlp))  # which some tests make shallow

    def shared(config, progress, clock, transforms=None):
        known = PROGRAMS.get(known_as(config))
        if known is not None and (transforms is None or same(transforms, known.transforms)):
            own = {name: getattr(config, name) for name in (*OF_THE_LOOP, "label")}
            program = dataclasses.replace(known, config=dataclasses.replace(known.config, **own))
            object.__setattr__(program, "kept", known.kept)
            return program
        program = load_program(config, progress, clock, transforms)
        if config.dataset.startswith("local:toy"):  # whose rows are always the same
            for key in list(PROGRAMS)[:-MOST_PROGRAMS]:
                del PROGRAMS[key]
            PROGRAMS[known_as(config)] = PROGRAMS[known_as(program.config)] = program
        return program

    same = lambda a, b: all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))
    of = Compiled.of

    def of_method(self, program):
        config, name = program.config, self.plain.__name__
        if name in MEETS and self.plain not in program.kept and not program.settings and program.mesh is None:
            steps = config.offline.steps, config.online.updates, config.run_key
            asked = (name, resolved(config)[MEETS[name]], steps, program.spec, config.seeds, config.seed_axis)
            asked += (denoiser.resmlp,)
            program.kept[self.plain] = PARTS[repr(asked)] = PARTS.get(repr(asked)) or of(self, program)
        return of(self, program)

    with pytest.MonkeyPatch.context() as patch:
        for module in (run, results):
            patch.setattr(module, "load_program", shared)
        patch.setattr(Compiled, "of", of_method)
        yield


@pytest.fixture(scope="module")
def generators_are_shallow():
    """Denoisers of generated rows have one block, not six: blocks are alike, and each is traced and compiled."""
    from train_helpers import make_generators_shallow

    with pytest.MonkeyPatch.context() as patch:
        make_generators_shallow(patch)
        yield


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_let_go():
    """Between files: a process that keeps thousands of programs holds many gigabytes of them."""
    yield
    if much_is_held():
        let_go()


@pytest.fixture(autouse=True)
def too_many_compiled_programs_are_let_go():
    """After a test of a file that has compiled very many; to look takes a hundredth of a second."""
    yield
    if time.monotonic() - LOOKED[-1] > 10.0:
        LOOKED[:] = [time.monotonic()]
        if of_this_process("maps").count("\n") >= MANY_MAPS:
            let_go()


def much_is_held():
    sizes = of_this_process("statm").split()
    return not sizes or int(sizes[1]) * os.sysconf("SC_PAGE_SIZE") >= MUCH_MEMORY


def of_this_process(name):
    """A file that Linux keeps of a process, or nothing; by functions that no test replaces."""
    try:
        with open(f"/proc/self/{name}") as file:
            return file.read()
    except OSError:
        return ""


def let_go():
    """Gives what was compiled back to the system too, or the process would seem full after every file."""
    PROGRAMS.clear()
    PARTS.clear()
    COMPILED.clear()
    jax.clear_caches()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


@pytest.fixture(autouse=True)
def the_process_stays_as_it_is(monkeypatch):
    """A command called within a test sets up neither a compile cache nor the allocator of the test process."""
    monkeypatch.setattr("cfdg_jax.process.setup", lambda deterministic=False: None)


def _reference(folder: str) -> pathlib.Path:
    base = pathlib.Path(os.environ.get("CFDG_REFERENCE_DIR", ROOT.parent / "shared"))
    if not (base / folder).is_dir():
        pytest.skip(f"reference files not present: {base / folder} (set CFDG_REFERENCE_DIR)")
    return base / folder


@pytest.fixture(scope="session")
def golden_dir() -> pathlib.Path:
    """Numbers of released implementations on fixed weights, batches and noise: the small variants."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def golden_full_dir() -> pathlib.Path:
    """The same with the published widths; optional."""
    return _reference("golden")


@pytest.fixture
def golden_of(golden_dir, request) -> Callable[[str], pathlib.Path]:
    """The folder that holds a variant: ``golden_of("small_det")`` is here, ``golden_of("full")`` is optional."""
    return lambda variant: golden_dir if variant.startswith("small") else request.getfixturevalue("golden_full_dir")


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """Small real MuJoCo recordings in D4RL's layout."""
    return _reference("data")
