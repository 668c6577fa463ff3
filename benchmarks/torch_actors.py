"""Eager PyTorch steps of TD3+BC and REDQ with the same losses and sizes, as a yardstick; prints one json object.

    ../torch/bin/python benchmarks/torch_actors.py td3bc --obs-dim 17 --act-dim 6

PyTorch is no dependency of the project: see `torch_iql.py`, whose way of writing and measuring this is.
"""

import copy

import torch
from torch import nn
from torch_iql import arguments, descend, measured, mlp


class TD3BC:
    """Losses of `cfdg_jax.agents.td3bc`: the policy and all targets at every second update."""

    def __init__(self, obs_dim, act_dim, width):
        self.q = nn.ModuleList([mlp(obs_dim + act_dim, 1, width) for _ in range(2)])
        self.pi = nn.Sequential(mlp(obs_dim, act_dim, width), nn.Tanh())
        self.targets = copy.deepcopy(nn.ModuleList([self.q, self.pi])).requires_grad_(False)
        self.q_opt, self.pi_opt = (torch.optim.Adam(net.parameters(), lr=3e-4) for net in (self.q, self.pi))
        self.calls = 0

    def update(self, obs, action, reward, next_obs, terminal):
        target_q, target_pi = self.targets
        with torch.no_grad():
            noise = (0.2 * torch.randn_like(action)).clamp(-0.5, 0.5)
            pair = torch.cat([next_obs, (target_pi(next_obs) + noise).clamp(-1.0, 1.0)], dim=-1)
            goal = reward + 0.99 * (1.0 - terminal) * torch.minimum(*(q(pair).squeeze(-1) for q in target_q))
        pair = torch.cat([obs, action], dim=-1)
        descend(self.q_opt, sum(((q(pair).squeeze(-1) - goal) ** 2).mean() for q in self.q))
        self.calls += 1
        if self.calls % 2:
            return
        fresh = self.pi(obs)
        q = self.q[0](torch.cat([obs, fresh], dim=-1))
        scale = 2.5 / q.abs().mean().detach()
        descend(self.pi_opt, -scale * q.mean() + ((fresh - action) ** 2).mean())
        follow(self.targets, nn.ModuleList([self.q, self.pi]))


class REDQ:
    """Losses of `cfdg_jax.agents.redq`: ten critics, a target of two of them, the policy at every 20th update."""

    def __init__(self, obs_dim, act_dim, width):
        self.q = nn.ModuleList([mlp(obs_dim + act_dim, 1, width) for _ in range(10)])
        self.target = copy.deepcopy(self.q).requires_grad_(False)
        self.pi, self.log_alpha = mlp(obs_dim, 2 * act_dim, width), nn.Parameter(torch.zeros(()))
        self.q_opt, self.pi_opt = (torch.optim.Adam(net.parameters(), lr=3e-4) for net in (self.q, self.pi))
        self.alpha_opt, self.entropy, self.calls = torch.optim.Adam([self.log_alpha], lr=3e-4), -act_dim, 0

    def drawn(self, obs):
        mean, log_std = self.pi(obs).chunk(2, dim=-1)
        std = log_std.clamp(-20.0, 2.0).exp()
        u = mean + std * torch.randn_like(mean)
        density = torch.distributions.Normal(mean, std).log_prob(u) - torch.log(1.0 - torch.tanh(u) ** 2 + 1e-6)
        return torch.tanh(u), density.sum(dim=-1)

    def update(self, obs, action, reward, next_obs, terminal):
        alpha = self.log_alpha.exp().detach()
        with torch.no_grad():
            fresh, log_pi = self.drawn(next_obs)
            pair = torch.cat([next_obs, fresh], dim=-1)
            two = torch.randperm(len(self.target))[:2].tolist()
            best = torch.minimum(*(self.target[i](pair).squeeze(-1) for i in two))
            goal = reward + 0.99 * (1.0 - terminal) * (best - alpha * log_pi)
        pair = torch.cat([obs, action], dim=-1)
        descend(self.q_opt, sum(((q(pair).squeeze(-1) - goal) ** 2).mean() for q in self.q))
        follow(self.target, self.q)
        self.calls += 1
        if self.calls % 20:
            return
        fresh, log_pi = self.drawn(obs)
        pair = torch.cat([obs, fresh], dim=-1)
        value = torch.stack([q(pair).squeeze(-1) for q in self.q]).mean(dim=0)
        descend(self.pi_opt, (alpha * log_pi - value).mean())
        descend(self.alpha_opt, -(self.log_alpha * (log_pi + self.entropy).detach()).mean())


def follow(targets, networks):
    """The targets' step towards the networks."""
    with torch.no_grad():
        for target, online in zip(targets.parameters(), networks.parameters(), strict=True):
            target.lerp_(online, 0.005)


def main():
    parser = arguments(__doc__)
    parser.add_argument("agent", choices=["td3bc", "redq"])
    args = parser.parse_args()
    torch.manual_seed(0)
    agent = {"td3bc": TD3BC, "redq": REDQ}[args.agent](args.obs_dim, args.act_dim, args.width)
    draw = lambda *shape: torch.randn(args.batch, *shape)
    batch = draw(args.obs_dim), draw(args.act_dim).tanh(), draw(), draw(args.obs_dim), 0 * draw()
    measured(f"eager PyTorch {args.agent} update", lambda: agent.update(*batch), args)


if __name__ == "__main__":
    main()
