"""Configs of a method's variants, with the fields that `make_config` would give them."""


def of_variant(config, variants, name="authors", **fields):
    """A config of the class `config` in variant `name`; `fields` are stronger than the variant's own."""
    return config(**{"variant": name} | dict(variants[name].fields) | fields)
