"""An eager PyTorch step of IQL with the same losses and sizes, as a yardstick; prints one json object.

PyTorch is no dependency of the project. Run this file with an interpreter that has it::

    python3.11 -m venv ../torch && ../torch/bin/pip install torch numpy
    ../torch/bin/python benchmarks/torch_iql.py --obs-dim 17 --act-dim 6

The step is written the way PyTorch users write it: modules, `loss.backward()`, `torch.optim.Adam`, an in-place target
average. Minibatches are drawn beforehand, so only the update is timed; the square matrix product is timed in between.
"""

import argparse
import copy
import json
import platform
import time

import torch
from torch import nn


def mlp(inputs, outputs, width):
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )


class Policy(nn.Module):
    """A Gaussian with tanh mean and free log standard deviations."""

    def __init__(self, obs_dim, act_dim, width):
        super().__init__()
        self.net, self.log_std = mlp(obs_dim, act_dim, width), nn.Parameter(torch.zeros(act_dim))

    def log_prob(self, obs, action):
        mean, std = torch.tanh(self.net(obs)), self.log_std.clamp(-5.0, 2.0).exp()
        return torch.distributions.Normal(mean, std).log_prob(action).sum(dim=-1)


class IQL:
    """Losses and order of `cfdg_jax.agents.iql` in variant ``authors``."""

    def __init__(self, obs_dim, act_dim, width, steps):
        self.q = nn.ModuleList([mlp(obs_dim + act_dim, 1, width) for _ in range(2)])
        self.target = copy.deepcopy(self.q).requires_grad_(False)
        self.v, self.pi = mlp(obs_dim, 1, width), Policy(obs_dim, act_dim, width)
        self.q_opt, self.v_opt, self.pi_opt = (
            torch.optim.Adam(net.parameters(), lr=3e-4) for net in (self.q, self.v, self.pi)
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.pi_opt, steps)

    def update(self, obs, action, reward, next_obs, terminal):
        pair = torch.cat([obs, action], dim=-1)
        with torch.no_grad():
            target_q = torch.minimum(*(q(pair).squeeze(-1) for q in self.target))
        error = target_q - self.v(obs).squeeze(-1)
        descend(self.v_opt, (torch.where(error > 0, 0.7, 0.3) * error**2).mean())
        with torch.no_grad():
            weight = (3.0 * (target_q - self.v(obs).squeeze(-1))).exp().clamp(max=100.0)
            goal = reward + 0.99 * (1.0 - terminal) * self.v(next_obs).squeeze(-1)
        descend(self.pi_opt, -(weight * self.pi.log_prob(obs, action)).mean())
        self.schedule.step()
        descend(self.q_opt, sum(((q(pair).squeeze(-1) - goal) ** 2).mean() for q in self.q))
        with torch.no_grad():
            for target, online in zip(self.target.parameters(), self.q.parameters(), strict=True):
                target.lerp_(online, 0.005)


def descend(optimiser, loss):
    """One gradient step."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def matmul_gflops(sizes=(1024, 2048), repeats=5):
    """Best rate of a square float32 product."""
    best = 0.0
    for size in sizes:
        a = torch.ones(size, size)
        for _ in range(repeats + 1):
            start = time.perf_counter()
            torch.mm(a, a)
            best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
    return best


def arguments(description):
    """The command line that all references have."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--obs-dim", type=int, default=17)
    parser.add_argument("--act-dim", type=int, default=6)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--updates", type=int, default=100, help="updates per repeat")
    parser.add_argument("--repeats", type=int, default=5, help="the best repeat counts")
    return parser


def measured(what, call, args, parts=1):
    """Prints the fewest seconds of `args.updates` calls of `parts` updates each, by the wall and of the process."""
    rate, best, cpu = matmul_gflops(), float("inf"), float("inf")
    for repeat in range(args.repeats + 1):  # the first warms up
        start, of_process = time.perf_counter(), time.process_time()
        for _ in range(args.updates):
            call()
        if repeat:
            best, cpu = min(best, time.perf_counter() - start), min(cpu, time.process_time() - of_process)
        rate = max(rate, matmul_gflops())
    count = args.updates * parts
    result = {"what": what, "updates_per_second": count / best, "cpu_milliseconds": 1e3 * cpu / count}
    result |= {"matmul_gflops": rate, **vars(args), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps(result | {"machine": platform.machine()}))


def main():
    args = arguments(__doc__).parse_args()
    torch.manual_seed(0)
    agent = IQL(args.obs_dim, args.act_dim, args.width, args.updates * (args.repeats + 1))
    draw = lambda *shape: torch.randn(args.batch, *shape)
    batch = draw(args.obs_dim), draw(args.act_dim).tanh(), draw(), draw(args.obs_dim), 0 * draw()
    measured("eager PyTorch IQL update", lambda: agent.update(*batch), args)


if __name__ == "__main__":
    main()
