"""Multilayer perceptrons for critics, values and policies: flax modules behind pairs of pure functions.

Agents never see a module. A `Network` is ``init(key) -> params`` and ``apply(params, *inputs) -> output``, and `params`
reads like a dictionary, ``{"l0": {"kernel": [in, out], "bias": [out]}, "l1": ..., "log_std": [A]}``, layers in forward
order and ``ln<i>`` beside ``l<i>`` where layers are normalised; `apply` ignores entries it does not know. Critics are
one batched set of parameters with a leading axis Q: measured on CPU, a batched product is as fast as Q separate ones,
and Q is then a plain number. The families of policies: docs/algorithms.md#networks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfdg_jax.core.distributions import Normal, TanhNormal
from cfdg_jax.core.packed import pack, unpack
from cfdg_jax.types import Key, Params, Spec

Init = Literal["orthogonal", "orthogonal_all", "pytorch", "xavier", "rlkit"]
"""How weights start (docs/algorithms.md#initialisation).

``orthogonal``: gain sqrt(2) in hidden layers, 1e-2 in the output, zero biases (Cal-QL; the default of this package).
``orthogonal_all``: gain sqrt(2) in all layers, the output too (implicit_q_learning).
``pytorch``: uniform within 1/sqrt(fan in), biases too (``nn.Linear``; CORL, PEX critics).
``xavier``: Glorot uniform, zero biases (RLPD, PEX policy).
``rlkit``: hidden layers uniform within 1/sqrt(fan out) with biases of 0.1; the output uniform within 3e-3, a squashed
Gaussian's within 1e-3, biases too (APL). rlkit calls it "fan in", but reads the other axis of PyTorch's weights.
"""


class Network(NamedTuple):
    """A function approximator as two pure functions.

    Attributes:
      init: ``(key) -> params``.
      apply: ``(params, *inputs) -> output``; inputs may have any leading axes.
    """

    init: Callable[[Key], Params]
    apply: Callable


@functools.cache
def orthogonal(scale: float):
    """A kernel initialiser: `scale` times a matrix drawn evenly from those with orthonormal rows or columns.

    It is Gram and Schmidt's process on a Gaussian matrix, done twice for float32 accuracy. ``jnp.linalg.qr`` gives the
    same distribution. On CPU, however, it calls a LAPACK whose threads fight XLA's: seconds for one network, minutes
    for the networks of many seeds.
    """

    def init(key: Key, shape: tuple[int, int], dtype=jnp.float32):
        rows, columns = shape
        matrix = jax.random.normal(key, (max(shape), min(shape)), dtype)

        def keep(turn, matrix):  # one loop for both rounds: XLA compiles its body once
            j = turn % matrix.shape[1]
            column = matrix[:, j] / jnp.linalg.norm(matrix[:, j])
            later = jnp.arange(matrix.shape[1]) > j
            return (matrix - jnp.outer(column, (column @ matrix) * later)).at[:, j].set(column)

        matrix = jax.lax.fori_loop(0, 2 * matrix.shape[1], keep, matrix)
        return scale * (matrix if rows >= columns else matrix.T)

    # Traced once a shape: flax asks for the shape of what an initialiser gives at every call of a layer.
    return jax.jit(init, static_argnames=("shape", "dtype"), inline=True)


def _uniform(bound: float):
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def _initialisers(kind: Init, fan_in: int, fan_out: int, output: bool, output_bound: float = 3e-3):
    """(kernel, bias) initialisers of one layer; `output_bound` is rlkit's."""
    if kind.startswith("orthogonal"):
        return orthogonal(1e-2 if output and kind == "orthogonal" else 2**0.5), nn.initializers.zeros
    if kind == "xavier":
        return nn.initializers.xavier_uniform(), nn.initializers.zeros
    if kind == "rlkit" and not output:
        return _uniform(fan_out**-0.5), nn.initializers.constant(0.1)
    uniform = _uniform(output_bound if kind == "rlkit" else fan_in**-0.5)
    return uniform, uniform


class _Joined(nn.Module):
    """`nn.Dense` of ``[state | action]`` for many actions of each state: the state's part is computed once for all."""

    width: int
    kernel_init: Any
    bias_init: Any

    @nn.compact
    def __call__(self, state, action):
        inputs = state.shape[-1] + action.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (inputs, self.width))
        bias = self.param("bias", self.bias_init, (self.width,))
        of_state = state @ kernel[: state.shape[-1]] + bias
        return of_state + action @ kernel[state.shape[-1] :]


class _MLP(nn.Module):
    hidden: tuple[int, ...]
    out: int
    layer_norm: bool
    kind: Init
    output_bound: float = 3e-3

    @nn.compact
    def __call__(self, x, *action):
        inputs = (x, *action)
        for i, width in enumerate((*self.hidden, self.out)):
            output = i == len(self.hidden)
            fan_in = sum(x.shape[-1] for x in inputs)
            kernel_init, bias_init = _initialisers(self.kind, fan_in, width, output, self.output_bound)
            layer = _Joined if len(inputs) > 1 else nn.Dense
            x = layer(width, kernel_init=kernel_init, bias_init=bias_init, name=f"l{i}")(*inputs)
            if not output:
                x = nn.relu(nn.LayerNorm(epsilon=1e-6, name=f"ln{i}")(x) if self.layer_norm else x)
            inputs = (x,)
        return x


def mlp(
    in_dim: int,
    out_dim: int,
    hidden: tuple[int, ...],
    layer_norm: bool = False,
    init: Init = "orthogonal",
    output_bound: float = 3e-3,
):
    """A ReLU network `[..., in_dim] -> [..., out_dim]`, or of two inputs that are joined.

    With `layer_norm`, Dense -> LayerNorm -> ReLU (RLPD, whose epsilon is flax's own 1e-6). `output_bound` is what the
    last layer's weights of `init` rlkit lie within.
    """
    module = _MLP(tuple(hidden), out_dim, layer_norm, init, output_bound)
    return Network(
        init=lambda key: pack(module.init(key, jnp.zeros((1, in_dim), jnp.float32))["params"]),
        apply=lambda params, *x: module.apply({"params": unpack(params)}, *x),
    )


def ensemble(network: Network, count: int) -> Network:
    """`count` independent copies with the same inputs; parameters and outputs lead with that axis.

    Each copy has inputs of its own: XLA would make the first layers on one input a single wide product, whose result,
    weights and gradients are transposed in kernels of their own.
    """

    def apply(params: Params, *inputs):
        copies = jax.tree.leaves(params)[0].shape[0]
        return jax.vmap(network.apply)(params, *(jnp.broadcast_to(x, (copies, *x.shape)) for x in inputs))

    return Network(init=lambda key: jax.vmap(network.init)(jax.random.split(key, count)), apply=apply)


def critics(
    spec: Spec, hidden: tuple[int, ...], count: int = 2, layer_norm: bool = False, init: Init = "orthogonal"
) -> Network:
    """`count` action values: ``apply(params, obs [..., O], action [..., A]) -> [Q, ...]``.

    `action` may have more leading axes, ``[M, ..., A]`` for M actions of each state; values are then `[Q, M, ...]`.
    The number of critics applied is that of `params`, so a subset is ``jax.tree.map(lambda p: p[index], params)``.
    """
    network = ensemble(mlp(spec.obs_dim + spec.act_dim, 1, hidden, layer_norm, init), count)

    def apply(params: Params, obs, action):
        joined = (obs, action) if action.ndim > obs.ndim else (jnp.concatenate([obs, action], axis=-1),)
        return network.apply(params, *joined)[..., 0]

    return Network(network.init, apply)


def critics_in_place(before: Params, after: Params, obs, action):
    """Values `[Q, ...]` of the critics `before`; slopes by the weights of `after`, at the activations of `before`.

    PyTorch gives this gradient when an optimiser overwrites a ReLU network between its forward and its backward pass:
    products use the new weights, activations are the kept ones. APL's release steps its policy this way, which PyTorch
    refuses from 1.5 on (docs/algorithms.md#sac). Parameters are those of `critics` without layer normalisation.
    """

    def layer(before: Params, after: Params, x):
        value, slope = (x @ params["kernel"] + params["bias"] for params in (before, after))
        return jax.lax.stop_gradient(value) + (slope - jax.lax.stop_gradient(slope))

    def network(before: Params, after: Params, x):
        for i in range(len(before)):
            x = layer(before[f"l{i}"], after[f"l{i}"], x)
            x = jax.nn.relu(x) if i + 1 < len(before) else x
        return x[..., 0]

    return jax.vmap(network, (0, 0, None))(before, after, jnp.concatenate([obs, action], axis=-1))


def state_value(spec: Spec, hidden: tuple[int, ...], layer_norm: bool = False, init: Init = "orthogonal") -> Network:
    """A state value: ``apply(params, obs [..., O]) -> [...]``."""
    network = mlp(spec.obs_dim, 1, hidden, layer_norm, init)
    return Network(network.init, lambda params, obs: network.apply(params, obs)[..., 0])


def deterministic_policy(spec: Spec, hidden: tuple[int, ...], init: Init = "orthogonal") -> Network:
    """A policy without noise: ``apply(params, obs [..., O]) -> action [..., A]``, squashed by tanh."""
    network = mlp(spec.obs_dim, spec.act_dim, hidden, init=init)
    return Network(network.init, lambda params, obs: jnp.tanh(network.apply(params, obs)))


def gaussian_policy(
    spec: Spec, hidden: tuple[int, ...], log_std_range: tuple[float, float] = (-5.0, 2.0), init: Init = "orthogonal"
) -> Network:
    """A Gaussian with tanh mean and one free log standard deviation per action dimension (IQL, PEX, AWAC).

    ``apply(params, obs [..., O]) -> Normal`` over `[..., A]`. ``params["log_std"]`` `[A]` starts at 0 and is clipped
    to `log_std_range`, so beyond it its gradient is 0.
    """
    network = mlp(spec.obs_dim, spec.act_dim, hidden, init=init)

    def apply(params: Params, obs) -> Normal:
        mean = jnp.tanh(network.apply(params, obs))
        return Normal(mean, jnp.broadcast_to(jnp.clip(params["log_std"], *log_std_range), mean.shape))

    return Network(lambda key: pack({**network.init(key), "log_std": jnp.zeros((spec.act_dim,), jnp.float32)}), apply)


def tanh_gaussian_policy(
    spec: Spec,
    hidden: tuple[int, ...],
    log_std_range: tuple[float, float] = (-5.0, 2.0),
    init: Init = "orthogonal",
    log_std_affine: tuple[float, float] | None = None,
) -> Network:
    """A tanh-squashed Gaussian whose mean and log standard deviation depend on the state (SAC, CQL, Cal-QL, RLPD).

    ``apply(params, obs [..., O]) -> TanhNormal`` over `[..., A]`. The last layer's outputs are ``[mean | raw]`` and
    ``log_std = clip(raw, *log_std_range)``. With `log_std_affine` = (multiplier, offset) these two are trainable
    scalars, ``log_std = clip(multiplier * raw + offset, *log_std_range)`` (Cal-QL, CQL: (1, -1)).
    """
    network = mlp(spec.obs_dim, 2 * spec.act_dim, hidden, init=init, output_bound=1e-3)

    def init_params(key: Key) -> Params:
        if log_std_affine is None:
            return network.init(key)
        multiplier, offset = map(jnp.float32, log_std_affine)
        return pack({**network.init(key), "log_std_multiplier": multiplier, "log_std_offset": offset})

    def apply(params: Params, obs) -> TanhNormal:
        mean, raw = jnp.split(network.apply(params, obs), 2, axis=-1)
        if log_std_affine is not None:
            raw = params["log_std_multiplier"] * raw + params["log_std_offset"]
        return TanhNormal(mean, jnp.clip(raw, *log_std_range))

    return Network(init_params, apply)


class BatchNormNetwork(NamedTuple):
    """A network whose layers are normalised over the batch, as pure functions.

    Attributes:
      init: ``(key) -> (params, averages)``; the averages are running means and variances.
      train: ``(params, averages, *inputs) -> (output, averages)`` with the batch's own moments.
      apply: ``(params, averages, *inputs) -> output`` with the running ones.
    """

    init: Callable[[Key], tuple[Params, Params]]
    train: Callable
    apply: Callable


class _BatchNormMLP(nn.Module):
    hidden: tuple[int, ...]
    out: int
    momentum: float
    kind: Init

    @nn.compact
    def __call__(self, x, train: bool):
        for i, width in enumerate((*self.hidden, self.out)):
            output = i == len(self.hidden)
            x = nn.BatchNorm(not train, momentum=self.momentum, epsilon=1e-5, name=f"bn{i}")(x)
            kernel_init, bias_init = _initialisers(self.kind, x.shape[-1], width, output)
            x = nn.Dense(width, kernel_init=kernel_init, bias_init=bias_init, name=f"l{i}")(x)
            x = x if output else nn.relu(x)
        return x


def batch_norm_critics(
    spec: Spec, hidden: tuple[int, ...], count: int, momentum: float, init: Init = "orthogonal"
) -> BatchNormNetwork:
    """`count` action values with batch normalisation before every layer (CrossQ); outputs `[Q, ...]`."""
    module = _BatchNormMLP(tuple(hidden), 1, momentum, init)

    def init_one(key: Key) -> tuple[Params, Params]:
        variables = module.init(key, jnp.zeros((2, spec.obs_dim + spec.act_dim), jnp.float32), True)
        return pack(variables["params"]), variables["batch_stats"]

    def train_one(params: Params, averages: Params, x):
        variables = {"params": unpack(params), "batch_stats": averages}
        output, updated = module.apply(variables, x, True, mutable=["batch_stats"])
        return output[..., 0], updated["batch_stats"]

    def apply_one(params: Params, averages: Params, x):
        output: Any = module.apply({"params": unpack(params), "batch_stats": averages}, x, False)
        return output[..., 0]

    join = lambda obs, action: jnp.concatenate([obs, action], axis=-1)
    return BatchNormNetwork(
        init=lambda key: jax.vmap(init_one)(jax.random.split(key, count)),
        train=lambda params, averages, obs, act: jax.vmap(train_one, (0, 0, None))(params, averages, join(obs, act)),
        apply=lambda params, averages, obs, act: jax.vmap(apply_one, (0, 0, None))(params, averages, join(obs, act)),
    )
