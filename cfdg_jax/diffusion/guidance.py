"""Classifier-free guidance as a wrapper of a denoise function (Ho & Salimans 2022, arXiv 2207.12598).

    D = (1 + w) D(x; sigma, label) - w D(x; sigma, null)

The same combination holds for the raw network, for epsilon and for the score, as the terms in x cancel. Convention of
CFDG's Eq. 7: w = 0 is plain conditional sampling; a "scale" of other codebases is 1 + w.
"""

from __future__ import annotations

import jax.numpy as jnp

from cfdg_jax.diffusion.edm import Denoise, DenoiseConditional
from cfdg_jax.types import Array, require


def classifier_free(denoise: DenoiseConditional, label: Array | int, null: Array | int, w: Array | float) -> Denoise:
    """The guided ``(x [n, d], sigma []) -> D [n, d]``.

    Args:
      denoise: The labelled denoiser. It must broadcast labels `[2, n]` or `[2, 1]` against x `[n, d]`; both branches
        are evaluated in that one call.
      label: `[]` or `[n]`, what is wanted.
      null: `[]`, the label that stands for no label.
      w: Guidance weight >= 0, a Python number or a traced `[]` array. With a Python 0 the null branch is never
        evaluated; a traced weight always evaluates both.
    """
    label = jnp.asarray(label)
    if isinstance(w, int | float):
        require(w >= 0, "w", f"is {w}", "must be at least 0")
        if w == 0:
            return lambda x, sigma: denoise(x, sigma, label)
    labels = jnp.stack(jnp.broadcast_arrays(label, jnp.asarray(null, label.dtype))).reshape(2, -1)

    def guided(x: Array, sigma: Array) -> Array:
        conditional, unconditional = denoise(x, sigma, labels)
        return (1.0 + w) * conditional - w * unconditional

    return guided
