"""The denoising network: SynthER's residual MLP with a noise-level embedding and an optional label or condition.

    h = W_in [x | condition] + time_mlp(c_noise) + label_mlp(label) + quantile_mlp(quantile)
    h = W_up h;  repeat blocks: h = h + W relu(norm(h));  F = W_out relu(norm(h))

Noise level, label and quantile broadcast against the rows. Where all rows share them, as in sampling, their embeddings
are computed once and not once per row. Sizes and sources: docs/algorithms.md#edm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfdg_jax.types import Array, Key, Params

Precision = Literal["default", "float32", "tensorfloat32", "bfloat16"]
"""How matrix products are computed; weights, sums and everything else stay float32. ``default`` is the backend's own:
float32 on CPU, TF32 on NVIDIA GPUs. ``tensorfloat32`` and ``bfloat16`` round the factors to 10 and 7 bits of mantissa
on every backend: their effect on quality can be measured anywhere, but only accelerators become faster."""

LabelEmbed = Literal["mlp", "onehot_concat"]
"""``mlp``: an embedding row through a two-layer MLP, added to the time embedding. ``onehot_concat``: joined to x."""

_PRECISIONS: dict[str, Any] = {
    "default": None,
    "float32": jax.lax.Precision.HIGHEST,
    "tensorfloat32": None,  # GPUs compute the rounded factors exactly; naming the algorithm is an error on CPU
    "bfloat16": jax.lax.DotAlgorithmPreset.BF16_BF16_F32,
}
_MANTISSA = {"tensorfloat32": 10, "bfloat16": 7}
_FREQUENCIES = 8  # random Fourier features (conglu1997/SynthER, learned_sinusoidal_dim 16)
_HARMONICS = 4  # sines and cosines of a quantile, from half a wave on
UNKNOWN = -1.0
"""A quantile that is not told."""


class Told(NamedTuple):
    """What a network is told of a row beside its noise level; its parts broadcast against the rows.

    Attributes:
      label: Integers `[...]`.
      quantile: Of a score, in [0, 1], `[...]`; `UNKNOWN` where it is not told.
    """

    label: Any
    quantile: Any


class Network(NamedTuple):
    """A raw network F as pure functions.

    Attributes:
      init: ``(key) -> params``.
      apply: ``(params, x [..., d], c_noise [...], condition) -> F [..., d]``. `c_noise` broadcasts against x's leading
        axes; `condition` is None, integer labels `[...]` that broadcast likewise, `Told`, or vectors `[..., c]`.
    """

    init: Callable[[Key], Params]
    apply: Callable[[Params, Array, Array, Any], Array]


def resmlp(
    event_dim: int,
    *,
    width: int,
    dim_t: int,
    blocks: int = 6,
    labels: int = 0,
    label_embed: LabelEmbed = "mlp",
    quantiles: bool = False,
    condition_dim: int = 0,
    layer_norm: bool = False,
    precision: Precision = "default",
) -> Network:
    """SynthER's residual MLP (conglu1997/SynthER denoiser_network.py), PyTorch's default initialisation.

    Args:
      event_dim: ``d``, columns of a sample.
      width: Units of the residual blocks.
      dim_t: Units of the embeddings, and of the layer before the blocks.
      blocks: Residual blocks.
      labels: Number of integer labels, the null label included; 0 for no labels.
      label_embed: How a label enters.
      quantiles: Whether a quantile is told beside each label: conditions are then `Told`. It enters by Fourier features
        through a two-layer MLP, added to the time embedding; a learnt vector stands for one that is not told.
      condition_dim: Columns of a condition vector joined to x; excludes `labels`.
      layer_norm: Normalise before every activation.
      precision: See `Precision`.
    """
    if labels and condition_dim:
        raise ValueError("a network takes labels or a condition vector, not both")
    if quantiles and not labels:
        raise ValueError("quantiles are told beside labels")
    module = _ResMLP(event_dim, width, dim_t, blocks, labels, label_embed, layer_norm, precision)

    def init(key: Key) -> Params:
        condition: Any = jnp.zeros((), jnp.int32) if labels else jnp.zeros(condition_dim) if condition_dim else None
        condition = Told(condition, jnp.zeros(())) if quantiles else condition
        return module.init(key, jnp.zeros(event_dim), jnp.zeros(()), condition)["params"]

    def apply(params: Params, x: Array, c_noise: Array, condition: Any = None) -> Array:
        return cast(Array, module.apply({"params": params}, x, c_noise, condition))

    return Network(init, apply)


class _ResMLP(nn.Module):
    event_dim: int
    width: int
    dim_t: int
    blocks: int
    labels: int
    label_embed: LabelEmbed
    layer_norm: bool
    precision: Precision

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, condition: Any) -> Array:
        embedding = self._time(c_noise)
        condition, quantile = condition if isinstance(condition, Told) else (condition, None)
        if self.labels:
            one_hot = jax.nn.one_hot(condition, self.labels, dtype=jnp.float32)
            if self.label_embed == "mlp":
                # A product with the table of all labels: its gradient is a product too, not a scatter.
                embedding = embedding + jnp.matmul(one_hot, self._label_table(), precision=jax.lax.Precision.HIGHEST)
            else:
                x = _join(x, one_hot)
        elif condition is not None:
            x = _join(x, condition)
        if quantile is not None:
            embedding = embedding + self._quantile(jnp.asarray(quantile))
        h = self._dense("in", x, self.dim_t) + embedding
        h = self._dense("up", h, self.width)
        for block in range(self.blocks):
            h = h + self._dense(f"block{block}", jax.nn.relu(self._norm(f"norm{block}", h)), self.width)
        return self._dense("out", jax.nn.relu(self._norm("norm_out", h)), self.event_dim)

    def _time(self, c_noise: Array) -> Array:
        frequencies = jax.lax.stop_gradient(self.param("frequencies", nn.initializers.normal(1.0), (_FREQUENCIES,)))
        angle = 2.0 * jnp.pi * c_noise[..., None] * frequencies
        features = jnp.concatenate([c_noise[..., None], jnp.sin(angle), jnp.cos(angle)], axis=-1)
        return self._dense("time2", jax.nn.silu(self._dense("time1", features, self.dim_t)), self.dim_t)

    def _label_table(self) -> Array:
        rows = self.param("labels", nn.initializers.normal(1.0), (self.labels, self.dim_t))
        return self._dense("label2", jax.nn.silu(self._dense("label1", rows, self.dim_t)), self.dim_t)

    def _quantile(self, quantile: Array) -> Array:
        angle = jnp.pi * quantile[..., None] * jnp.arange(1, _HARMONICS + 1)
        features = jnp.concatenate([quantile[..., None], jnp.sin(angle), jnp.cos(angle)], axis=-1)
        told = self._dense("quantile2", jax.nn.silu(self._dense("quantile1", features, self.dim_t)), self.dim_t)
        null = self.param("quantile_null", nn.initializers.normal(1.0), (self.dim_t,))
        return jnp.where(quantile[..., None] == UNKNOWN, null, told)

    def _dense(self, name: str, x: Array, features: int) -> Array:
        return _dense(name, x, features, self.precision)

    def _norm(self, name: str, x: Array) -> Array:
        return nn.LayerNorm(epsilon=1e-5, name=name)(x) if self.layer_norm else x


# -- networks over actions given states --------------------------------------------------------------------------------

_TIME_FEATURES = 32  # Fourier features of t (QGPO)
_STATE_FEATURES, _EMBEDDING = 32, 128  # units of the state's embedding, and of both embeddings joined (QGPO)


def dense_unet(
    event_dim: int,
    condition_dim: int,
    *,
    widths: tuple[int, ...] = (512, 256, 128),
    time_scale: float = 30.0,
    precision: Precision = "default",
) -> Network:
    """QGPO's score network (docs/algorithms.md#behaviour) without its division by sigma_t.

    Blocks of `widths` lead down, blocks of the same widths lead up again, each joined with its counterpart::

        d1 = block(x), d2 = block(d1), d3 = block(d2);  u = block(d3);  u = block([d3 | u]), u = block([d2 | u])
        F  = W_out [d1 | u]

    Args:
      event_dim: ``d``, columns of a sample.
      condition_dim: Columns of the condition vector.
      widths: Units of the blocks on the way down.
      time_scale: Standard deviation of the frequencies of t (QGPO 30). At 30 neighbouring times look unrelated, and a
        few thousand steps are not enough; at 4 they are.
      precision: See `Precision`.
    """
    return _conditional(_DenseUNet(event_dim, widths, time_scale, precision), event_dim, condition_dim)


def energy_mlp(
    event_dim: int,
    condition_dim: int,
    *,
    hidden: tuple[int, ...] = (256, 256, 256, 256),
    time_scale: float = 30.0,
    precision: Precision = "default",
) -> Network:
    """QGPO's energy network (its GuidanceQt): SiLU layers over ``[x | time features | condition]``.

    See docs/algorithms.md#energy. Its `apply` returns a number per row, `[...]`. Arguments as for `dense_unet`.
    """
    return _conditional(_EnergyMLP(hidden, time_scale, precision), event_dim, condition_dim)


def _conditional(module: nn.Module, event_dim: int, condition_dim: int) -> Network:
    def init(key: Key) -> Params:
        return module.init(key, jnp.zeros(event_dim), jnp.zeros(()), jnp.zeros(condition_dim))["params"]

    def apply(params: Params, x: Array, c_noise: Array, condition: Array | None = None) -> Array:
        return cast(Array, module.apply({"params": params}, x, c_noise, condition))

    return Network(init, apply)


class _DenseUNet(nn.Module):
    event_dim: int
    widths: tuple[int, ...]
    time_scale: float
    precision: Precision

    @nn.compact
    def __call__(self, x: Array, t: Array, condition: Array) -> Array:
        state = jax.nn.silu(self._dense("state", condition, _STATE_FEATURES))
        time = _time_features(self, t, self.time_scale, self.precision)
        h = jax.nn.silu(self._dense("embed1", _join(state, time), _EMBEDDING))
        embedding = jax.nn.silu(self._dense("embed2", h, _EMBEDDING))
        skips = []
        for i, width in enumerate(self.widths):
            x = self._block(f"down{i}", x, embedding, width)
            skips.append(x)
        x = self._block("middle", x, embedding, self.widths[-1])
        for i in reversed(range(1, len(self.widths))):
            x = self._block(f"up{i}", _join(skips[i], x), embedding, self.widths[i - 1])
        return self._dense("out", _join(skips[0], x), self.event_dim)

    def _block(self, name: str, x: Array, embedding: Array, width: int) -> Array:
        h = jax.nn.silu(self._dense(f"{name}_in", x, width)) + self._dense(f"{name}_embed", embedding, width)
        h = jax.nn.silu(self._dense(f"{name}_out", h, width))
        return h + (x if x.shape[-1] == width else self._dense(f"{name}_skip", x, width))

    def _dense(self, name: str, x: Array, features: int) -> Array:
        return _dense(name, x, features, self.precision)


class _EnergyMLP(nn.Module):
    hidden: tuple[int, ...]
    time_scale: float
    precision: Precision

    @nn.compact
    def __call__(self, x: Array, t: Array, condition: Array) -> Array:
        h = _join(_join(x, _time_features(self, t, self.time_scale, self.precision)), condition)
        for i, width in enumerate(self.hidden):
            h = jax.nn.silu(_dense(f"l{i}", h, width, self.precision))
        return _dense("out", h, 1, self.precision)[..., 0]


def _time_features(module: nn.Module, t: Array, scale: float, precision: Precision) -> Array:
    draw = nn.initializers.normal(scale)
    frequencies = jax.lax.stop_gradient(module.param("frequencies", draw, (_TIME_FEATURES // 2,)))
    angle = 2.0 * jnp.pi * t[..., None] * frequencies
    features = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return _dense("time", features, _TIME_FEATURES, precision)


def _dense(name: str, x: Array, features: int, precision: Precision) -> Array:
    """A linear layer of the module being called, PyTorch's default initialisation."""
    bound = x.shape[-1] ** -0.5
    uniform = lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)
    layer = nn.Dense(
        features,
        kernel_init=uniform,
        bias_init=uniform,
        precision=_PRECISIONS[precision],
        dot_general=_rounding_dot(_MANTISSA[precision]) if precision in _MANTISSA else None,
        name=name,
    )
    return layer(x)


def _rounding_dot(mantissa: int) -> Callable[..., Array]:
    """``jax.lax.dot_general`` of factors rounded to `mantissa` bits, where CPUs would multiply them as they are.

    Going back, the gradient of x is rounded, which is a factor of the layer before; that of the weights is not.
    """
    rounded = lambda x: jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=mantissa)

    def dot(x: Array, kernel: Array, *args: Any, **keywords: Any) -> Array:
        straight_through = kernel + jax.lax.stop_gradient(rounded(kernel) - kernel)
        return jax.lax.dot_general(rounded(x), straight_through, *args, **keywords)

    return dot


def _join(x: Array, condition: Array) -> Array:
    lead = jnp.broadcast_shapes(x.shape[:-1], condition.shape[:-1])
    widen = lambda part: jnp.broadcast_to(part, (*lead, part.shape[-1]))
    return jnp.concatenate([widen(x), widen(condition)], axis=-1)
