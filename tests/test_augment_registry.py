"""The registry and the augmenter that does nothing."""

import dataclasses

import pytest

from cfdg_jax.augment.none import NoneConfig, none
from cfdg_jax.augment.registry import AUGMENTERS, make_augmenter
from cfdg_jax.errors import UserError
from cfdg_jax.methods import Augmenter
from cfdg_jax.types import Source, Spec

SPEC = Spec(obs_dim=3, act_dim=2, horizon=100)


@pytest.mark.parametrize("name", list(AUGMENTERS))
def test_every_entry_makes_an_augmenter_from_its_default_config(name):
    config_class = AUGMENTERS[name].config
    assert dataclasses.is_dataclass(config_class) and config_class.__dataclass_params__.frozen
    augmenter = make_augmenter(config_class(), SPEC)
    assert isinstance(augmenter, Augmenter)
    assert sum(augmenter.shares.values()) == pytest.approx(1.0 if augmenter.shares else 0.0)
    assert set(augmenter.shares) <= {Source.SYNTHETIC_OFFLINE, Source.SYNTHETIC_ONLINE}
    assert (augmenter.fit_steps > 0) == bool(augmenter.shares) == (config_class().fitted_to is not None)


@pytest.mark.parametrize("name", list(AUGMENTERS))
def test_a_method_has_few_knobs(name):
    """Public fields, the variant's name among them; low-level switches are the variants'."""
    limits = {"none": 0, "synther": 14, "edis": 18, "cfdg": 20}
    assert len(dataclasses.fields(AUGMENTERS[name].config)) <= limits[name]
    for variant, (fields, switches) in AUGMENTERS[name].variants.items():
        assert dataclasses.is_dataclass(switches) and switches.__dataclass_params__.frozen
        assert AUGMENTERS[name].config(**fields, variant=variant).variant == variant


def test_unregistered_config():
    with pytest.raises(UserError, match="str: is not the config of a registered method"):
        make_augmenter("cfdg", SPEC)


def test_none_has_no_state_and_refuses_to_generate():
    augmenter = none(NoneConfig(), SPEC)
    assert augmenter.init(None, None, None) == () and augmenter.fit((), None, None, None, 10) == ((), {})
    with pytest.raises(ValueError, match="generates no rows"):
        augmenter.generate((), None, int(Source.SYNTHETIC_ONLINE), 10)
