"""An eager PyTorch step of Cal-QL with CORL's losses and sizes, as a yardstick; prints one json object.

PyTorch is no dependency of the project: see `torch_iql.py`. Each kind of action goes through each critic in a call of
its own, as in CORL; none of CORL's logging is done. CPU seconds are of the whole process, so that they can be compared
on a machine with other work too.
"""

import copy
import itertools
import math

import torch
from torch import nn
from torch_iql import arguments, descend, measured

N = 10
"""Actions of each kind."""


def mlp(inputs, outputs, width, layers):
    sizes = [inputs, *[width] * layers]
    hidden = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


class Policy(nn.Module):
    """A squashed Gaussian whose log standard deviation has a trained scale and offset."""

    def __init__(self, obs_dim, act_dim, width):
        super().__init__()
        self.net = mlp(obs_dim, 2 * act_dim, width, 2)
        self.scale, self.offset = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-1.0))

    def forward(self, obs):
        mean, raw = self.net(obs).chunk(2, dim=-1)
        log_std = (self.scale * raw + self.offset).clamp(-20.0, 2.0)
        u = mean + log_std.exp() * torch.randn_like(mean)
        log_det = 2.0 * (math.log(2.0) - u - nn.functional.softplus(-2.0 * u))
        normal = torch.distributions.Normal(mean, log_std.exp())
        return torch.tanh(u), (normal.log_prob(u) - log_det).sum(dim=-1)


class CalQL:
    """Losses of `cfdg_jax.agents.calql`: the best of ten in the target, Lagrange's form, the bound by returns."""

    def __init__(self, obs_dim, act_dim, width, layers):
        self.act_dim = act_dim
        self.q = nn.ModuleList([mlp(obs_dim + act_dim, 1, width, layers) for _ in range(2)])
        self.target = copy.deepcopy(self.q).requires_grad_(False)
        self.pi = Policy(obs_dim, act_dim, width)
        self.log_alpha, self.log_multiplier = (nn.Parameter(torch.tensor(x)) for x in (0.0, 1.0))
        adam = lambda parameters, rate: torch.optim.Adam(parameters, lr=rate)
        self.q_opt, self.pi_opt = adam(self.q.parameters(), 3e-4), adam(self.pi.parameters(), 1e-4)
        self.alpha_opt, self.multiplier_opt = adam([self.log_alpha], 1e-4), adam([self.log_multiplier], 3e-4)

    def update(self, obs, action, reward, next_obs, terminal, known):
        fresh, log_pi = self.pi(obs)
        descend(self.alpha_opt, -(self.log_alpha * (log_pi - self.act_dim).detach()).mean())
        alpha = self.log_alpha.exp().detach()
        critics = [q(torch.cat([obs, fresh], dim=-1)).squeeze(-1) for q in self.q]
        policy_loss = (alpha * log_pi - torch.minimum(*critics)).mean()
        loss, excess = self.critic_loss(obs, action, reward, next_obs, terminal, known)
        descend(self.multiplier_opt, -self.log_multiplier.exp() * 5.0 * excess.detach())
        self.pi_opt.zero_grad()
        policy_loss.backward()
        descend(self.q_opt, loss)
        self.pi_opt.step()
        with torch.no_grad():
            for target, online in zip(self.target.parameters(), self.q.parameters(), strict=True):
                target.lerp_(online, 0.005)

    def critic_loss(self, obs, action, reward, next_obs, terminal, known):
        many = lambda x: x.unsqueeze(1).expand(-1, N, -1)
        with torch.no_grad():
            best = many(next_obs)
            pair = torch.cat([best, self.pi(best)[0]], dim=-1)
            next_q = torch.minimum(*(q(pair).squeeze(-1) for q in self.target)).max(dim=1).values
            goal = reward + 0.99 * (1.0 - terminal) * next_q
            now, log_now = self.pi(many(obs))
            later, log_later = self.pi(many(next_obs))
            even = torch.rand_like(now) * 2.0 - 1.0
        loss = excess = 0.0
        for q in self.q:
            at = lambda actions, q=q: q(torch.cat([many(obs), actions], dim=-1)).squeeze(-1)
            here = q(torch.cat([obs, action], dim=-1)).squeeze(-1)
            bounded = [torch.maximum(at(actions), known.unsqueeze(1)) for actions in (now, later)]
            densities = [-self.act_dim * math.log(2.0), log_now, log_later]
            scores = [x - density for x, density in zip([at(even), *bounded], densities, strict=True)]
            gap = (torch.logsumexp(torch.cat(scores, dim=1), dim=1) - here).mean() - 0.8
            loss = loss + ((here - goal) ** 2).mean() + self.log_multiplier.exp().detach() * 5.0 * gap
            excess = excess + gap / 2
        return loss, excess


def main():
    parser = arguments(__doc__)
    parser.add_argument("--layers", type=int, default=2, help="hidden layers of the critics")
    args = parser.parse_args()
    torch.manual_seed(0)
    agent = CalQL(args.obs_dim, args.act_dim, args.width, args.layers)
    draw = lambda *shape: torch.randn(args.batch, *shape)
    batch = draw(args.obs_dim), draw(args.act_dim).tanh(), draw(), draw(args.obs_dim), 0 * draw(), draw()
    measured("eager PyTorch Cal-QL update", lambda: agent.update(*batch), args)


if __name__ == "__main__":
    main()
