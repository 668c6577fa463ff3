"""What a config comes to: its public fields, and the switches of the variant that it names."""

import dataclasses

from cfdg_jax.config import REGISTRIES, entry_of, get_path, resolved


def setting(config, entry, name):
    """A public field of a method's config, or a switch of its variant by dotted path."""
    if hasattr(config, name):
        return getattr(config, name)
    return get_path(entry.variants[config.variant].switches, name)


def value_at(config, path):
    """The value that a run of `config` has at a dotted path."""
    choice, _, name = path.partition(".")
    if choice not in REGISTRIES:
        return get_path(config, path)
    return setting(resolved(config)[choice], entry_of(getattr(config, choice), choice), name)


def learns_values(name):
    """Whether an agent has a critic, which discounts."""
    return "discount" in {field.name for field in dataclasses.fields(REGISTRIES["agent"][name].config)}
