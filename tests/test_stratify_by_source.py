"""APL's weight: offline rows are conservative, online rows not, synthetic rows follow their batch or their label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfdg_jax.stratify.by_source import BySourceConfig, by_source
from cfdg_jax.types import Batch, Source, Spec

SPEC = Spec(obs_dim=2, act_dim=1, horizon=10)
OFF, ON, SYN_OFF, SYN_ON = Source.OFFLINE, Source.ONLINE, Source.SYNTHETIC_OFFLINE, Source.SYNTHETIC_ONLINE


def marked(sources, synthetic="batch"):
    n = len(sources)
    rows, zero = jnp.zeros((n, 2)), jnp.zeros(n)
    batch = Batch(rows, rows[:, :1], zero, rows, zero, zero, jnp.array(sources), jnp.ones(n))
    conserve, metrics = by_source(BySourceConfig(synthetic=synthetic), SPEC).mark((), (), batch, jax.random.key(0))
    assert metrics["conserve"] == pytest.approx(np.mean(conserve))
    return np.asarray(conserve).tolist()


def test_real_rows_are_weighted_by_their_origin():
    assert marked([OFF, ON, ON, OFF]) == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(("real", "weight"), [([OFF, OFF], 1.0), ([ON, ON], 0.0), ([OFF, ON, ON, ON], 0.25)])
def test_synthetic_rows_follow_the_real_rows_of_their_batch(real, weight):
    assert marked([*real, SYN_OFF, SYN_ON])[len(real) :] == [weight, weight]


def test_synthetic_rows_follow_their_label_where_asked():
    assert marked([OFF, ON, SYN_OFF, SYN_ON], "label") == [1.0, 0.0, 1.0, 0.0]
