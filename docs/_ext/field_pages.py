"""The page of all config fields, written from the dataclasses and presets whenever the site is built."""

import pathlib
import re

from cfdg_jax import catalog
from cfdg_jax.config import REGISTRIES
from cfdg_jax.fields import leaf_paths
from cfdg_jax.presets import make_config
from cfdg_jax.values import PRESETS

HEAD = """# Config fields

Written from the source. Every field is a flag of `cfdg-jax train` and a keyword of `cfdg_jax.make_config`;
`cfdg-jax train --explain FIELD` says the same for a dataset of your choice. A preset is named where its value is
another than the class default, here on `local:hopper-medium-replay-v0`. A method's fields stand in its section.
"""


def page() -> str:
    """Markdown of every field, room by room."""
    parts = [HEAD, "## The run\n", _table(catalog.run_fields(), {})]
    for choice, plural in catalog.LISTS.items():
        parts.append(f"## {plural.capitalize()}\n")
        for name in REGISTRIES[choice]:
            fields, about = catalog.method_fields(choice, name), REGISTRIES[choice][name].about
            parts.append(f"### `--{choice} {name}`\n\n{about}. {_sources(fields)}\n")
            parts.append(_table(fields, {choice: name}) if fields else "No fields.\n")
    return "\n".join(parts)


def _sources(fields) -> str:
    found = dict.fromkeys(each for field in fields.values() for each in catalog.sources(field.about))
    pages = [each.removeprefix("docs/") for each in found if each.startswith("docs/")]
    return "Source: " + ", ".join(f"[{page}]({page})" for page in pages) + "." if pages else ""


def _table(fields, chosen) -> str:
    values = {preset: leaf_paths(make_config(preset=preset, **chosen)) for preset in PRESETS}
    defaults = {path: eval(field.default) for path, field in fields.items()}
    lines = ["| field | meaning | default | presets |", "|---|---|---|---|"]
    for path, field in fields.items():
        others = {preset: values[preset][path] for preset in PRESETS if values[preset][path] != defaults[path]}
        shown = "<br>".join(f"{preset} `{value!r}`" for preset, value in others.items())
        kind, meaning = (re.sub(r"([*_|])", r"\\\1", words) for words in (field.kind, field.meaning))
        meaning = re.sub(r"docs/(algorithms\.md#[\w-]+)", r"[\1](\1)", meaning)
        lines.append(f"| `{path}`<br>{kind} | {meaning} | `{field.default}` | {shown} |")
    return "\n".join(lines) + "\n"


def write(app) -> None:
    folder = pathlib.Path(app.srcdir) / "_generated"
    folder.mkdir(exist_ok=True)
    target = folder / "fields.md"
    text = page().replace("](algorithms.md", "](../algorithms.md")
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def setup(app):
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
