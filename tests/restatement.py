"""Independent NumPy re-statements: forward passes by hand, gradients by complex steps, Adam by its formulas.

Nothing of the package is imported. A loss written for complex numbers (comparisons on real parts only) gives its exact
derivative as ``Im loss(x + i h) / h`` with h = 1e-30, so no backward pass is re-stated and none can be wrong twice.
"""

import itertools

import numpy as np


def forward(network, x):
    """A ReLU network ``{"l0": {"kernel", "bias"}, ...}``."""
    last = sum(name.startswith("l") and name[1:].isdigit() for name in network) - 1
    for i in range(last + 1):
        x = x @ network[f"l{i}"]["kernel"] + network[f"l{i}"]["bias"]
        x = np.where(x.real > 0, x, 0) if i < last else x
    return x


def critic(network, obs, action):
    """One critic's values `[B]`."""
    return forward(network, np.concatenate([obs + 0 * action[:, :1], action], axis=1))[:, 0]


def critic_in_place(before, after, obs, action):
    """The values of the critic `before`, and derivatives by the weights of `after` at the activations of `before`."""
    x = np.concatenate([obs + 0 * action[:, :1], action], axis=1)
    for i in range(len(before)):
        x = x.real @ before[f"l{i}"]["kernel"] + before[f"l{i}"]["bias"] + 1j * (x.imag @ after[f"l{i}"]["kernel"])
        x = np.where(x.real > 0, x, 0) if i + 1 < len(before) else x
    return x[:, 0]


def smaller(a, b):
    """Elementwise minimum by real parts."""
    return np.where(a.real < b.real, a, b)


def leaves(tree, path=()):
    """Every ``(path, array)`` of nested dictionaries."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def rebuild(items):
    """The inverse of `leaves`."""
    tree = {}
    for path, value in items:
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
    return tree


def gradient(loss, params):
    """The exact gradient of ``loss(params)``, entry by entry."""
    parts = {path: np.asarray(value, complex) for path, value in leaves(params)}
    grads = {path: np.zeros(value.shape) for path, value in parts.items()}
    for path, value in parts.items():
        for index in np.ndindex(value.shape):
            shifted = value.copy()
            shifted[index] += 1e-30j
            grads[path][index] = loss(rebuild((parts | {path: shifted}).items())).imag / 1e-30
    return rebuild(grads.items())


class Adam:
    """Adam with a given rate per step (Kingma and Ba 2015, Algorithm 1)."""

    def __init__(self, rate=lambda step: 3e-4):
        self.rate, self.count, self.m, self.v = rate, 0, {}, {}

    def step(self, params, grads):
        """New parameters."""
        self.count += 1
        grads, new = dict(leaves(grads)), []
        for path, value in leaves(params):
            g = grads[path]
            self.m[path] = 0.9 * self.m.get(path, 0.0) + 0.1 * g
            self.v[path] = 0.999 * self.v.get(path, 0.0) + 0.001 * g * g
            m, v = self.m[path] / (1 - 0.9**self.count), self.v[path] / (1 - 0.999**self.count)
            new.append((path, value - self.rate(self.count - 1) * m / (np.sqrt(v) + 1e-8)))
        return rebuild(new)


def average(target, online, tau=0.005):
    """Polyak."""
    online = dict(leaves(online))
    return rebuild([(path, tau * online[path] + (1 - tau) * value) for path, value in leaves(target)])


def network(rng, sizes):
    """Random parameters of a network with the given layer sizes, within 1/sqrt(fan in)."""
    uniform = lambda fan_in, *shape: rng.uniform(-(fan_in**-0.5), fan_in**-0.5, shape).astype(np.float32)
    return {
        f"l{i}": {"kernel": uniform(a, a, b), "bias": uniform(a, b)}
        for i, (a, b) in enumerate(itertools.pairwise(sizes))
    }


def ensemble(rng, sizes, count):
    """`count` random networks stacked on a leading axis."""
    networks = [dict(leaves(network(rng, sizes))) for _ in range(count)]
    return rebuild([(path, np.stack([net[path] for net in networks])) for path in networks[0]])
