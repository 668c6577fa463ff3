"""What ``cfdg-jax data`` prints: ``list`` and ``build``; `doctor` and `convert` have the rest."""

from __future__ import annotations

from collections.abc import Iterator

from cfdg_jax.data.files import cache_dir, exists, told
from cfdg_jax.data.names import LISTING, RECIPES, REMOTES, split_name
from cfdg_jax.errors import nearest, require


def list_text() -> str:
    """All names, with what is already on this machine marked."""
    root = cache_dir()
    lines = [f"data folder: {root} (CFDG_DATA_DIR)", "", "built here on first use:"]
    for name, recipe in RECIPES.items():
        with told(root, "cannot be read"):
            there = any((root / "local").glob(f"{name}-{recipe.rows}-*.hdf5"))
        lines.append(f"  local:{name:<28} {recipe.rows:>9,} rows {'  built' if there else ''}".rstrip())
    lines += ["", "downloaded on first use:"]
    for name, remote in REMOTES.items():
        there = exists(root / "d4rl" / remote.file)
        lines.append(f"  d4rl:{name:<29} {'  downloaded' if there else ''}".rstrip())
    lines += ["", "besides: minari:ID, and the path of a file in D4RL's layout"]
    lines += ["to be converted first, with data convert: lerobot:FOLDER, ogbench:FILE.npz"]
    return "\n".join(lines)


def build(pattern: str, rows: int | None = None) -> Iterator[str]:
    """Fetches, converts or builds the datasets that a name stands for (`expand`); says where each is once it is there.

    Args:
      pattern: A name, or with ``*`` several.
      rows: Of ``local:`` datasets; by default the recipe's.
    """
    from cfdg_jax.data.doctor import expand  # and below: a list must not wait for HDF5 and simulators

    return (_build(name, rows) for name in expand(pattern))


def _build(name: str, rows: int | None) -> str:
    from cfdg_jax.data import d4rl, local, minari

    kind, rest = split_name(name)
    require(rows is None or kind == "local", "--rows", f"is of no use for {name}", "it is of local: datasets alone")
    if kind == "d4rl":
        return str(d4rl.fetch(rest))
    if kind == "minari":
        return str(minari.convert(rest))
    require(
        kind == "local",
        name,
        "is a file and needs no building",
        nearest(name, [f"local:{known}" for known in RECIPES], LISTING),
    )
    return str(local.build(rest, rows=rows))
