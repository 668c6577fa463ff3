"""``cfdg-jax data`` and ``cfdg-jax list``: what there is to train on, and what to train with."""

from __future__ import annotations

import click

from cfdg_jax import catalog
from cfdg_jax.commands.options import DatasetPath, FieldValue, Text, Words
from cfdg_jax.errors import nearest, require
from cfdg_jax.process import starting

ENVIRONMENTS = "environments"
KINDS = [*catalog.LISTS.values(), ENVIRONMENTS]


class Choices(click.Group):
    """Commands in the order they were added; an unknown one is refused with the nearest."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]):
        name, remedy = args[0], nearest(args[0], self.list_commands(ctx), f"{ctx.command_path} --help")
        require(name in self.commands or name.startswith("-"), ctx.command_path, f"'{name}' is no command", remedy)
        return super().resolve_command(ctx, args)


@click.group(cls=Choices, short_help="datasets: list, info, check, build, convert")
def data() -> None:
    """List, describe, check, build and convert datasets."""


@data.command("list")
def list_data() -> None:
    """All names, with what is already on this machine marked."""
    from cfdg_jax.data.commands import list_text

    print(list_text())


json_option = click.option("--json", "as_json", is_flag=True, help="one json object a line")


@data.command(short_help="describe a dataset")
@click.argument("name", type=DatasetPath(), metavar="NAME_OR_PATH")
@json_option
def info(name: str, as_json: bool) -> int:
    """Describe a dataset; a name with a star stands for several."""
    return _examine("info", name, as_json)


@data.command(short_help="replay rows in the environment, name what differs")
@click.argument("name", type=DatasetPath(), metavar="NAME_OR_PATH")
@json_option
def check(name: str, as_json: bool) -> int:
    """Replay rows of a dataset in its environment and name what differs; exit code 2 if it does."""
    return _examine("check", name, as_json)


def _examine(action: str, name: str, as_json: bool) -> int:
    with starting(compiles=False):
        from cfdg_jax.data import doctor

    text, code = getattr(doctor, action)(name, as_json=as_json)
    print(text)
    return code


@data.command(short_help="download, convert or build, and print where")
@click.argument("name", type=DatasetPath(), metavar="NAME")
@click.option("--rows", type=FieldValue("rows", int), metavar="N", help="of a local: dataset, up to 2000000")
def build(name: str, rows: str | None) -> None:
    """Download, convert or build datasets and print where they are; a name with a star stands for several."""
    with starting(compiles=False):
        from cfdg_jax.data import commands
        from cfdg_jax.values import coerce

    for path in commands.build(name, None if rows is None else coerce(int, rows, "rows")):
        print(path, flush=True)


@data.command(short_help="between HDF5, npz and Minari")
@click.argument("source", type=DatasetPath(), metavar="SRC")
@click.argument("target", type=Text("file"), metavar="DST")
@click.option("--clip-actions", is_flag=True, help="clip actions to [-1, 1] instead of refusing them")
@click.option("--action-range", nargs=2, type=float, metavar="LOW HIGH", help="what others' actions call -1 and 1")
def convert(source: str, target: str, clip_actions: bool, action_range: tuple[float, float] | None) -> None:
    """Convert between D4RL's HDF5, npz and Minari; lerobot:FOLDER and ogbench:FILE.npz are sources too."""
    with starting(compiles=False):
        from cfdg_jax.data.convert import convert

    print(convert(source, target, clip_actions=clip_actions, action_range=action_range))


@click.command("list", short_help="agents, augmenters, mixers, stratifiers, environments")
@click.argument("what", type=Words(*KINDS), metavar="WHAT")
def list_names(what: str) -> None:
    """What there is to choose, one line each: agents, augmenters, mixers, stratifiers or environments."""
    require(what in KINDS, "list", f"'{what}' is unknown", f"{nearest(what, KINDS)}; datasets: cfdg-jax data list")
    if what == ENVIRONMENTS:
        from cfdg_jax.tasks import TASKS

        lines = [*TASKS.items(), ("gym:ID", "any Gymnasium environment with Box actions, such as gym:Pendulum-v1")]
    else:
        choice = next(choice for choice, plural in catalog.LISTS.items() if plural == what)
        lines = [(method.name, method.about) for method in catalog.methods(choice).values()]
    width = max(len(name) for name, _ in lines) + 2
    print("\n".join(f"{name:<{width}}{about}" for name, about in lines))
