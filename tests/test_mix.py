"""Mixing: row counts, the origin of every row, and refused values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfdg_jax.core import ring
from cfdg_jax.errors import UserError
from cfdg_jax.methods import Mix, registered
from cfdg_jax.mix.balanced_replay import BalancedReplayConfig, online_priority
from cfdg_jax.mix.base import MixConfig
from cfdg_jax.mix.registry import MIXES, make_mix
from cfdg_jax.presets import make_config
from cfdg_jax.types import Counts, Pool, Source, Spec

SPEC = Spec(obs_dim=1, act_dim=1, horizon=10)
SHARES = {Source.SYNTHETIC_ONLINE: 0.8, Source.SYNTHETIC_OFFLINE: 0.2}


def rule(kind="balanced", **fields) -> Mix:
    """A mixing rule by name; what a run resolves is set."""
    if kind == "a3rl":
        fields["correction_updates"] = 100
    return make_mix(MIXES[kind].config(**fields), SPEC)


def pool(online_rows=50, offline_rows=40):
    """Rows of width 2: a serial number and the source."""

    def rows(source, count, start):
        return jnp.stack([start + jnp.arange(count, dtype=jnp.float32), jnp.full(count, float(source))], axis=1)

    online = ring.insert(ring.empty(60, 2), rows(Source.ONLINE, online_rows, 1_000))
    synthetic = {int(source): ring.full(rows(source, 30, 10_000 * source)) for source in SHARES}
    return Pool(rows(Source.OFFLINE, offline_rows, 0), online, synthetic)


def origins(rows):
    source = np.asarray(rows[..., 1]).astype(int)
    return [np.bincount(batch, minlength=4).tolist() for batch in source.reshape(-1, source.shape[-1])]


def test_fixed_composition_is_86_85_68_17():
    counts = rule().counts(SHARES, 100)
    assert (counts.online, counts.offline) == (86, 85)
    assert dict(counts.synthetic) == {Source.SYNTHETIC_ONLINE: 68, Source.SYNTHETIC_OFFLINE: 17}
    assert counts.total == 256


def test_append_composition_is_128_128_102_26():
    counts = rule(composition="append").counts(SHARES, 100)
    assert (counts.online, counts.offline) == (128, 128)
    assert dict(counts.synthetic) == {Source.SYNTHETIC_ONLINE: 102, Source.SYNTHETIC_OFFLINE: 26}


def test_before_the_first_refresh_the_base_mix_at_full_size():
    assert rule().counts({}, 100) == Counts(128, 128, 0, ())


def test_every_batch_of_a_block_of_twenty_is_half_offline():
    """RLPD's 20 updates on 256 rows each."""
    mix = rule("balanced")
    rows = mix.draw(mix.counts({}, 40), pool(), jax.random.key(0), 20)
    assert origins(rows) == [[128, 128, 0, 0]] * 20


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(4, 600),
    ratio=st.floats(0, 0.9),
    offline_share=st.floats(0, 1),
    online=st.floats(0, 1),
    kind=st.sampled_from(list(MIXES)),
)
def test_counts_sum_to_the_batch(batch, ratio, offline_share, online, kind):
    fields = {"batch_size": batch, "synthetic_share": ratio}
    if hasattr(MIXES[kind].config(), "offline_share"):
        fields["offline_share"] = offline_share if kind == "balanced" else min(max(offline_share, 0.01), 0.99)
    shares = {Source.SYNTHETIC_ONLINE: online, Source.SYNTHETIC_OFFLINE: 1 - online}
    counts = rule(kind, **fields).counts(shares, 10)
    assert counts.total == batch
    assert min(counts.offline, counts.online, counts.pooled, *(rows for _, rows in counts.synthetic), 0) == 0


def test_balanced_rows_come_from_where_they_should():
    mix = rule(batch_size=30)
    rows = mix.draw(mix.counts(SHARES, 40), pool(), jax.random.key(0), 5)
    assert rows.shape == (5, 30, 2)
    assert origins(rows) == [[10, 10, 2, 8]] * 5


def test_uniform_follows_the_sizes():
    mix = rule("uniform", batch_size=2_000)
    rows = mix.draw(mix.counts({}, 40), pool(online_rows=10), jax.random.key(1), 1)
    offline, online, *_ = origins(rows)[0]
    assert abs(offline / 2_000 - 0.8) < 0.03
    assert online == 2_000 - offline
    serials = np.asarray(rows[..., 0]).ravel()
    assert set(serials.tolist()) == set(range(40)) | set(range(1_000, 1_010))


def test_an_online_row_has_balanced_replay_s_first_priority():
    """The priority, and what follows for the share of online rows while more are gathered."""
    assert online_priority(1_000_000, 0.5, 1_000) == pytest.approx(1_000)
    assert online_priority(200_000, 0.8, 500) == pytest.approx(100)


@pytest.mark.parametrize(("gathered", "share"), [(5, 1 / 3), (10, 1 / 2), (30, 3 / 4)])
def test_balanced_replay_reaches_its_share_with_the_first_rows_and_rises_on(gathered, share):
    mix = rule("balanced_replay", batch_size=4_000, first_rows=10)
    rows = mix.draw(mix.counts({}, 40), pool(online_rows=gathered), jax.random.key(1), 1)
    offline, online, *_ = origins(rows)[0]
    assert offline + online == 4_000 and abs(online / 4_000 - share) < 0.03
    serials = np.asarray(rows[..., 0]).ravel()
    assert set(serials.tolist()) == set(range(40)) | set(range(1_000, 1_000 + gathered))


def test_balanced_replay_needs_rows_of_both():
    with pytest.raises(UserError, match=r"mix\.offline_share"):
        BalancedReplayConfig(offline_share=1.0)
    values = {"dataset": "d4rl:hopper-medium-v2", "agent": "iql"}
    with pytest.raises(UserError, match=r"mix\.first_rows"):
        make_config(**values, mix="uniform", mix__first_rows=7)
    chosen = make_config(**values, mix="balanced_replay", preset="paper")
    assert chosen.online.start_steps == 1_000, "its share is that of the first rows"
    without = rule("balanced_replay", batch_size=30).counts({}, 0)
    assert without.online == 30, "without offline rows all are online"


def test_oorb_batches_have_one_origin_and_obey_p_and_gate():
    mix = rule("oorb", batch_size=8, p_online=0.3, gate=20, recent=5)
    counts = mix.counts({}, 40)
    rows = mix.draw(counts, pool(online_rows=50), jax.random.key(2), 10_000)
    per_batch = np.asarray(origins(rows))
    assert set(per_batch[:, 1].tolist()) == {0, 8}
    assert abs((per_batch[:, 1] == 8).mean() - 0.3) < 0.015
    online_serials = np.asarray(rows[..., 0])[per_batch[:, 1] == 8]
    assert set(online_serials.ravel().tolist()) == set(range(1_045, 1_050)), "online batches are the newest rows"
    offline_serials = np.asarray(rows[..., 0])[per_batch[:, 1] == 0]
    assert (offline_serials >= 1_000).any(), "APL's offline buffer also holds the online rows"
    closed = mix.draw(counts, pool(online_rows=20), jax.random.key(2), 500)
    assert np.asarray(origins(closed))[:, 1].max() == 0, "the gate needs strictly more rows"


def test_label_matched_synthetic_rows_follow_the_branch():
    mix = rule("oorb", batch_size=12, gate=0, label_matched=True)
    rows = mix.draw(mix.counts(SHARES, 40), pool(), jax.random.key(3), 50)
    kinds = {tuple(origin) for origin in origins(rows)}
    assert kinds == {(0, 8, 0, 4), (8, 0, 4, 0)}


def test_bernoulli_split_has_the_right_mean():
    mix = rule(batch_size=300, split="bernoulli")
    rows = mix.draw(mix.counts(SHARES, 40), pool(), jax.random.key(4), 40)
    share = np.asarray(origins(rows))[:, 3] / 100
    assert abs(share.mean() - 0.8) < 0.02 and share.std() > 0.01


def test_without_offline_data_everything_real_is_online():
    for kind in MIXES:
        assert rule(kind, batch_size=16).counts({}, 0) == Counts(0, 16, 0, ())


@pytest.mark.parametrize("kind", list(MIXES))
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "mix.batch_size: is 0; must be at least 1"),
        ({"synthetic_share": 1.0}, r"mix.synthetic_share: is 1.0; must lie in \[0, 1\)"),
    ],
)
def test_refused_values(kind, values, message):
    with pytest.raises(UserError, match=message):
        MIXES[kind].config(**values)


def test_labels_are_matched_only_where_batches_have_one_origin():
    with pytest.raises(UserError, match=r"mix\.label_matched: is no config field"):
        make_config("d4rl:hopper-medium-v2", "iql", mix="balanced", mix__label_matched=True)


@pytest.mark.parametrize("name", list(MIXES))
def test_every_entry_makes_a_rule_from_its_config(name):
    assert registered(MIXES, MIXES[name].config()) is MIXES[name]
    assert isinstance(rule(name), Mix) and issubclass(MIXES[name].config, MixConfig)
    assert len(rule(name).init(jax.random.key(0))) == (3 if name == "a3rl" else 0)
    assert (rule(name).choose is None) == (name != "a3rl")
