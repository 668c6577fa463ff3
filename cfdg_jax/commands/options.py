"""Options whose names and values are the package's: methods, datasets, and every config field as ``--dotted.path``.

They are read from the source (`cfdg_jax.catalog`), so that help, completion and refusals wait for no import of JAX.
"""

from __future__ import annotations

import itertools
import pathlib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import click
from click.shell_completion import CompletionItem

from cfdg_jax import catalog
from cfdg_jax.axis import read_axis
from cfdg_jax.data.names import dataset_names, split_name
from cfdg_jax.errors import UserError, nearest, require, require_begun, require_file, require_run
from cfdg_jax.values import PRESETS, coerce, in_range, require_range

CHOSEN = "cfdg_jax.chosen"
"""Where a click context keeps the methods named on the command line."""


class Words(click.ParamType):
    """Texts of a known set; a shell completes them."""

    name = "name"

    def __init__(self, *known: str):
        self.known = known

    def words(self) -> Sequence[str]:
        return self.known

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(word) for word in self.words() if word.startswith(incomplete)]


class Text(click.ParamType):
    """A text that is there: a shell's unset variable gives an empty one.

    Args:
      completes: What a shell completes it to, ``dir``, ``file`` or nothing.
      check: Refuses a wrong path.
    """

    name = "text"

    def __init__(self, completes: Literal["dir", "file", ""] = "", check: Callable[[pathlib.Path], None] | None = None):
        self.completes, self.check = completes, check

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type=self.completes)] if self.completes else []

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        option = param.opts[0] if param is not None else "value"
        require(value != "", option, "is empty", "give it a value, or leave it out")
        if self.check is not None:
            self.check(pathlib.Path(value))
        return value


RUN_FOLDER, BEGUN_FOLDER, YAML_FILE = Text("dir", require_run), Text("dir", require_begun), Text("file", require_file)


class FieldPath(Text):
    """A config field, or what several begin with."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        known = ["fields", *catalog.fields(ctx.meta.get(CHOSEN, {}))]
        return [CompletionItem(path) for path in known if path.startswith(incomplete)]


class MethodName(Words):
    """A registered method of one choice."""

    def __init__(self, choice: str):
        self.choice = choice

    def words(self) -> Sequence[str]:
        return list(catalog.methods(self.choice))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        catalog.require_method(self.choice, value)
        return value


class MethodNames(MethodName):
    """Several of them, with commas between."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        names = value if isinstance(value, tuple) else value.split(",")
        return tuple(super(MethodNames, self).convert(name, param, ctx) for name in names)


class DatasetPath(Words):
    """What may be a dataset's name or a path: a shell completes names where there are any."""

    def words(self) -> Sequence[str]:
        return dataset_names()

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return super().shell_complete(ctx, param, incomplete) or [CompletionItem(incomplete, type="file")]


class DatasetName(DatasetPath):
    """A dataset's name or path; ``""`` for none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value:
            split_name(value)
        return value


class PresetName(Words):
    def words(self) -> Sequence[str]:
        return PRESETS

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        require(value in PRESETS, "preset", f"'{value}' is unknown", nearest(value, PRESETS))
        return value


class FieldValue(Words):
    """A value of a config field: checked here, and left as text for `make_config`."""

    def __init__(self, path: str, annotation: Any, names: Sequence[str] = (), within: Sequence[str] = ()):
        self.path, self.annotation, self.names, self.within = path, annotation, names, within

    def words(self) -> Sequence[str]:
        literals = [str(each) for each in typing.get_args(self.annotation) if isinstance(each, str)]
        return self.names or (("true", "false") if self.annotation is bool else literals)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found, least = coerce(self.annotation, value, self.path), catalog.least().get(self.path)
        if least is not None:
            require(found >= least, self.path, f"is {found}", f"must be at least {least}")
        if self.within and not any(in_range(found, kind) for kind in self.within):
            require_range(found, self.within[0], self.path)
        if self.names:
            remedy = nearest(value, self.names, f"cfdg-jax train --explain {self.path}")
            require(value in self.names, self.path, f"'{value}' is unknown", remedy)
        return value


class AxisValues(FieldValue):
    """``FIELD=v1,v2``: a number of a method and the values that it is trained at."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        ((path, values),) = read_axis(value, self.path).items()
        known = catalog.fields(ctx.meta.get(CHOSEN, {}) if ctx else {})
        require(path in known, path, "is no config field", catalog.instead(path, known))
        for each in values:
            coerce(known[path].annotation, each, path)
        return path, values

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        fields = catalog.fields(ctx.meta.get(CHOSEN, {})).items()
        numbers = [path for path, field in fields if field.annotation is float and path.split(".")[0] in catalog.LISTS]
        return [CompletionItem(f"{path}=") for path in numbers if path.startswith(incomplete)]


class RunCommand(click.Command):
    """A command on runs: besides its own options it takes every config field of the methods that it is given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[CHOSEN] = dict(_chosen(args))
        try:
            return super().parse_args(ctx, args)
        except click.BadOptionUsage as error:
            error.ctx = ctx  # of which click forgets whose option lacks a value
            raise
        except click.NoSuchOption as error:
            path = error.option_name.removeprefix("--")
            if not error.option_name.startswith("--"):
                raise
            known = [*catalog.fields(ctx.meta[CHOSEN]), *(name for each in self.params for name in _flags(each))]
            raise UserError(path, "is no config field", catalog.instead(path, known)) from None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        own, chosen = super().get_params(ctx), ctx.meta.get(CHOSEN, {})
        taken = {name for each in own for name in _flags(each)}
        return [*own, *(each for each in _field_options(chosen) if taken.isdisjoint(_flags(each)))]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [row for each in super().get_params(ctx) if (row := each.get_help_record(ctx))]
        with formatter.section("Options"):
            formatter.write_dl(rows)
        with formatter.section("Config fields"):
            formatter.write_dl([
                ("--FIELD VALUE", "any field of the run by its dotted path, such as --agent.expectile 0.9"),
                ("", "cfdg-jax train --explain agent.expectile says what one means, --explain fields lists all"),
            ])  # fmt: skip


def _flags(param: click.Parameter) -> list[str]:
    return [name.removeprefix("--") for name in param.opts if name.startswith("--")]


def _chosen(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The methods named among raw arguments, refused where they are unknown."""
    for choice in catalog.LISTS:
        for flag, following in itertools.zip_longest(args, args[1:], fillvalue=""):
            name, equals, value = flag.partition("=")
            if name == f"--{choice}" and (equals or following):
                catalog.require_method(choice, value if equals else following)
                yield choice, value if equals else following


def _field_options(chosen: Mapping[str, str]) -> Iterator[click.Option]:
    for path, field in catalog.fields(chosen).items():
        choice, _, leaf = path.partition(".")
        owners = ([chosen[choice]] if choice in chosen else catalog.owners(path)) if leaf == "variant" else []
        names = list(dict.fromkeys(name for each in owners for name in catalog.methods(choice)[each].variants))
        spellings = dict.fromkeys((f"--{path}", f"--{path.replace('_', '-')}"))
        kind = FieldValue(path, field.annotation, names, _ranges(path, chosen))
        yield click.Option([*spellings, path.replace(".", "__")], type=kind, help=field.meaning)


def _ranges(path: str, chosen: Mapping[str, str]) -> list[str]:
    """The ranges that a field has in the methods that the run may have; none where one of them has none."""
    choice = path.partition(".")[0]
    names = [chosen[choice]] if choice in chosen else catalog.owners(path)
    kinds = [catalog.ranges(choice, name).get(path) for name in names]
    return [] if None in kinds else [kind for kind in kinds if kind]


def set_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The config fields that were given, by dotted path."""
    axis = values.get("vmap") or ()
    twice = next((path for i, (path, _) in enumerate(axis) if path in dict(axis[:i])), None)
    require(twice is None, str(twice), "is given twice with --vmap", "give all its values at once")
    given = {name: value for name, value in values.items() if name != "vmap"} | ({"vmap": dict(axis)} if axis else {})
    return {name.replace("__", "."): value for name, value in given.items() if value is not None}


def method_option(choice: str, text: str) -> Any:
    """An option that names a method."""
    return click.option(f"--{choice}", type=MethodName(choice), metavar="NAME", help=text)


preset_option = lambda default: click.option(
    "--preset", type=PresetName(), default=default, show_default=True, metavar="NAME",
    help="paper, reduced or smoke: where values start from",
)  # fmt: skip
vmap_option = click.option(
    "--vmap", type=AxisValues("vmap", tuple), multiple=True, metavar="FIELD=V1,V2",
    help="train every value of a method's number with every seed, in one program; several make a grid",
)  # fmt: skip
quiet_option = click.option("--quiet", is_flag=True, help="no progress")
