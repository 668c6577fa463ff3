"""SynthER's denoiser in eager PyTorch: a step of its fit, or an evaluation while it samples; prints one json object.

    ../torch/bin/python benchmarks/torch_denoiser.py fit --obs-dim 17 --act-dim 6 --width 1024

PyTorch is no dependency of the project: see `torch_iql.py`, whose way of writing and measuring this is.
"""

import copy
import itertools
import math

import torch
from torch import nn
from torch_iql import arguments, measured

SIGMA = 1.0  # of normalised data


class Denoiser(nn.Module):
    """The residual network of `cfdg_jax.diffusion.network.resmlp`, with EDM's scaling."""

    def __init__(self, columns, width, blocks=6):
        super().__init__()
        dim = width // 4
        self.register_buffer("frequencies", torch.randn(16 // 2))
        features = 1 + 2 * len(self.frequencies)
        self.time = nn.Sequential(nn.Linear(features, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.first, self.up, self.last = nn.Linear(columns, dim), nn.Linear(dim, width), nn.Linear(width, columns)
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(blocks)])

    def forward(self, x, sigma):
        noise = sigma.log() / 4.0
        angle = 2.0 * math.pi * noise[:, None] * self.frequencies
        features = torch.cat([noise[:, None], angle.sin(), angle.cos()], dim=-1)
        variance = sigma**2 + SIGMA**2
        h = self.up(self.first(x / variance.sqrt()[:, None]) + self.time(features))
        for block in self.blocks:
            h = h + block(torch.relu(h))
        skip, out = SIGMA**2 / variance, sigma * SIGMA / variance.sqrt()
        return skip[:, None] * x + out[:, None] * self.last(torch.relu(h))


class Fit:
    """A step as SynthER makes it: EDM's weighted loss, clipped gradient, AdamW on a cosine, a slow average."""

    def __init__(self, columns, width):
        self.net = Denoiser(columns, width)
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.opt = torch.optim.AdamW(self.net.parameters(), lr=3e-4, betas=(0.9, 0.99), weight_decay=0.0)
        self.schedule, self.calls = torch.optim.lr_scheduler.CosineAnnealingLR(self.opt, 100_000), 0

    def step(self, x):
        sigma = (1.2 * torch.randn(len(x)) - 1.2).exp()
        weight = (sigma**2 + SIGMA**2) / (sigma * SIGMA) ** 2
        error = (self.net(x + sigma[:, None] * torch.randn_like(x), sigma) - x) ** 2
        self.opt.zero_grad()
        (weight[:, None] * error).mean().backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.opt.step()
        self.schedule.step()
        self.calls += 1
        if self.calls % 10 == 0:
            with torch.no_grad():
                for old, new in zip(self.average.parameters(), self.net.parameters(), strict=True):
                    old.lerp_(new, 0.005)


def sample(net, rows, columns, steps):
    """Heun's steps without churn; ``2 steps - 1`` evaluations."""
    ends = torch.linspace(80.0 ** (1 / 7), 0.002 ** (1 / 7), steps) ** 7
    levels = torch.cat([ends, torch.zeros(1)])
    with torch.no_grad():
        x = levels[0] * torch.randn(rows, columns)
        for now, then in itertools.pairwise(levels):
            slope = (x - net(x, now.expand(rows))) / now
            guess = x + (then - now) * slope
            if then > 0:
                slope = (slope + (guess - net(guess, then.expand(rows))) / then) / 2
                guess = x + (then - now) * slope
            x = guess
    return x


def main():
    parser = arguments(__doc__)
    parser.add_argument("part", choices=["fit", "sample"])
    parser.add_argument("--rows", type=int, default=2_000, help="sampled at once")
    parser.add_argument("--steps", type=int, default=16, help="of the sampler")
    args = parser.parse_args()
    torch.manual_seed(0)
    columns = 2 * args.obs_dim + args.act_dim + 1
    if args.part == "fit":
        fit, rows = Fit(columns, args.width), torch.randn(args.batch, columns)
        measured("eager PyTorch denoiser, a step of its fit", lambda: fit.step(rows), args)
        return
    net, evaluations = Denoiser(columns, args.width), 2 * args.steps - 1
    args.updates = 1
    measured(
        "eager PyTorch denoiser, an evaluation", lambda: sample(net, args.rows, columns, args.steps), args, evaluations
    )


if __name__ == "__main__":
    main()
