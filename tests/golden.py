"""Reading the golden files: parameters, the batch, and comparison with whole or summarised arrays."""

import json
import math

import jax.numpy as jnp
import numpy as np

from cfdg_jax.types import Batch


class Arrays(dict):
    """``{name: array}`` of a packed file, with the one attribute of `numpy.load`'s result that tests use."""

    @property
    def files(self):
        return list(self)


def load(folder, name):
    """The arrays of one golden file, small and packed or full-size."""
    stored = np.load(folder / name)
    if "index" not in stored.files:
        return stored
    flat = {dtype: stored[dtype] for dtype in stored.files}
    return Arrays(
        (name, flat[dtype][start : start + math.prod(shape)].reshape(shape))
        for name, dtype, shape, start in json.loads(flat.pop("index").tobytes())
    )


def params(z, prefix, dtype=np.float32):
    """The network stored under `prefix`, such as ``small/init/q1``, in this package's layout."""
    out = {}
    for name in z.files:
        if name.startswith(prefix + "/"):
            *layer, leaf = name[len(prefix) + 1 :].split("/")
            value = np.asarray(z[name], dtype)
            if layer:
                out.setdefault(layer[0], {})[{"W": "kernel", "b": "bias"}.get(leaf, leaf)] = value
            else:
                out[leaf] = value
    assert out, f"nothing under {prefix}"
    return out


def stacked(z, prefixes, dtype=np.float32):
    """Several networks as one ensemble with a leading axis."""
    networks = [params(z, prefix, dtype) for prefix in prefixes]
    return {
        layer: {leaf: np.stack([n[layer][leaf] for n in networks]) for leaf in networks[0][layer]}
        for layer in networks[0]
    }


def batch(z, dtype=np.float32):
    """The file's one batch, every row fully conservative."""
    get = lambda name: jnp.asarray(z[f"batch/{name}"], dtype)
    rows = z["batch/rew"].shape[0]
    mc_return = get("mc") if "batch/mc" in z.files else jnp.full(rows, -jnp.inf, dtype)
    return Batch(
        obs=get("obs"),
        action=get("act"),
        reward=get("rew"),
        next_obs=get("next_obs"),
        terminal=get("term"),
        mc_return=mc_return,
        source=jnp.zeros(rows, jnp.int32),
        conserve=jnp.ones(rows, dtype),
    )


def flatten(network):
    """``{"l0/W": ..., "log_std": ...}`` of one network's parameters or gradients."""
    flat = {}
    for name, value in network.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{ {'kernel': 'W', 'bias': 'b'}.get(leaf, leaf) }": array for leaf, array in value.items()}
        else:
            flat[name] = value
    return {name: np.asarray(value, np.float64) for name, value in flat.items()}


def member(ensemble, index):
    """One network of an ensemble."""
    return {layer: {leaf: value[index] for leaf, value in leaves.items()} for layer, leaves in ensemble.items()}


def summaries(array):
    """The four summaries the files hold of an array with more than 64 entries."""
    x = np.asarray(array, np.float64).ravel()
    signs = np.random.RandomState(12345).randint(-64, 65, size=x.size) / 64
    return {"@sum": x.sum(), "@l2": np.linalg.norm(x), "@dot": signs @ x, "@s": x[:: max(1, x.size // 32)][:32]}


def expected(z, name):
    """``{suffix: reference}``: the whole array under "" or its summaries."""
    if name in z.files:
        return {"": z[name]}
    return {suffix: z[name + suffix] for suffix in ("@sum", "@l2", "@dot", "@s")}


def compare(z, name, array, atol):
    """Asserts `array` equals what is stored under `name` within `atol` per entry.

    A sum over n entries of independent errors is allowed ``sqrt(n)`` times as much.
    """
    array = np.asarray(array, np.float64)
    for suffix, reference in expected(z, name).items():
        ours = summaries(array)[suffix] if suffix else array
        slack = array.size**0.5 if suffix in ("@sum", "@l2", "@dot") else 1.0
        np.testing.assert_allclose(ours, reference, rtol=0, atol=atol * slack, err_msg=name + suffix)
