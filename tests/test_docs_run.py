"""Every command and code block of README and docs is tried, in a smaller form, or says why not.

Python blocks of a page run one after the other in one namespace, in a folder where the README's ran before. Commands
are resolved: command, options, fields and values, but the run itself is not made.
"""

import contextlib
import os
import pathlib
import re
import shlex

import pytest

from cfdg_jax import cli
from cfdg_jax.agents.registry import AGENTS
from cfdg_jax.augment.registry import AUGMENTERS
from cfdg_jax.mix.registry import MIXES
from cfdg_jax.stratify.registry import STRATIFIERS

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "howto").glob("*.md"))]
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```(\w*)\n(.*?)^```$", re.M | re.S)
SMALLER = {
    "local:hopper-medium-v0": "local:toy-dense-medium-replay-v0",
    "local:hopper-medium-replay-v0": "local:toy-dense-medium-replay-v0",
    'augment="cfdg", ': "",
    'preset="reduced"': 'preset="smoke"',
    "episodes=100": "episodes=2",
    '["normalized_score"]': '["return"]',
    '"runs/first")\n': '"runs/first", progress=False)\n',
}
"""What makes an example of minutes one of seconds; the toy has no reference scores."""
STANDS_FOR = {"NAME": "local:hopper-medium-v0", "NAME_OR_PATH": "local:hopper-medium-v0", "N": "10", "...": ""}


def blocks(language):
    for page in PAGES:
        for skip, kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if kind == language and not skip:
                yield page, text


def commands():
    """``(page, words)`` of every cfdg-jax command in a block."""
    for page, text in blocks(""):
        for line in text.splitlines():
            if line.startswith("cfdg-jax "):
                line = re.split(r"\s{4,}(?=[a-z'-])", line)[0].replace("[", "").replace("]", "")
                words = [STANDS_FOR.get(word, word) for word in shlex.split(line, comments=True)]
                yield page.name, tuple(words[1:])


@pytest.mark.parametrize(("page", "words"), sorted(set(commands())), ids=lambda value: str(value)[:60])
def test_commands_are_resolved(page, words, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for folder in ("RUN_FOLDER", "BEGUN_FOLDER"):  # of runs that were not made
        monkeypatch.setattr(f"cfdg_jax.commands.options.{folder}.check", None)
    if words[0] == "train" and not {"--resume", "--explain", "--dry-run", "--show"} & set(words):
        assert cli.main([*words, "--show"]) == 0, capsys.readouterr().err
    elif words[0] == "list" or "--explain" in words:
        assert cli.main(words) == 0, capsys.readouterr().err
    else:
        command, rest = cli.cli, list(words)
        while getattr(command, "commands", None):
            command = command.commands[rest.pop(0)]
        command.make_context(words[0], rest).close()


def test_there_are_commands_and_blocks_to_try():
    assert len(set(commands())) > 30 and len(list(blocks("python"))) > 12


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {name for _, text in blocks("") for name in re.findall(r"^make ([a-z]+)", text, re.M)}
    assert named and named <= targets


@contextlib.contextmanager
def registries_as_they_were():
    """A page registers its example, which later tests in this process must not meet."""
    registries = (AGENTS, AUGMENTERS, MIXES, STRATIFIERS)
    known = [dict(entries) for entries in registries]
    try:
        yield
    finally:
        for entries, before in zip(registries, known, strict=True):
            entries.clear()
            entries.update(before)


def run_blocks(page):
    """Runs the Python of a page in the working folder."""
    namespace = {"__name__": "__main__"}
    with registries_as_they_were():
        for found, text in blocks("python"):
            if found != page:
                continue
            for long, short in SMALLER.items():
                text = text.replace(long, short)
            exec(compile(text, str(page), "exec"), namespace)
            if "obs_scale" in text:
                check_reader(namespace)


RUN = [page for page in PAGES if any(found == page for found, _ in blocks("python"))]
README = PAGES[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with what the README leaves there: other pages, in whatever process, go on from its run."""
    place = tmp_path_factory.mktemp("docs")
    with contextlib.chdir(place), pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", os.environ | {"CFDG_DATA_DIR": os.environ.get("CFDG_DATA_DIR", str(place))})
        run_blocks(README)
        yield place


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_python_blocks_run(page, folder):
    if page == README:
        assert (folder / "runs" / "first" / "summary.json").is_file()
        return
    if page.name == "use.md":
        assert cli.main(["export", "runs/first", "--out", "policy.npz"]) == 0
    run_blocks(page)


def check_reader(namespace):
    """The ten lines of NumPy act as the run does."""
    import numpy as np

    import cfdg_jax

    obs = np.random.default_rng(0).normal(size=(2, 7, 4)).astype(np.float32)
    own = cfdg_jax.load_run("runs/first").policy()(obs)
    for seed in range(2):
        np.testing.assert_allclose(namespace["act"](obs[seed], seed), own[seed], atol=1e-5)
