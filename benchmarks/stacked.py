"""What stacking would save: IQL's critics, V and policy as one batched network, beside the library's three.

All three losses see the parameters of before (release CORL's order), so one gradient and one step of Adam do for all.
V and the policy get the critics' inputs with zeros for the action, and all have the policy's outputs; the first is
a value. Counted, and timed in turns: five seeds, HalfCheetah's sizes, batch 256. Prints json.

    python benchmarks/stacked.py
"""

import json
import time

import jax
import jax.numpy as jnp
from called import command

from cfdg_jax.agents.base import descend, scan_updates
from cfdg_jax.bench import hlo
from cfdg_jax.bench.kinds import by_kind
from cfdg_jax.bench.programs import program_of
from cfdg_jax.core.distributions import Normal
from cfdg_jax.core.flops import product_flop
from cfdg_jax.core.losses import awr_weight, expectile, td_loss, td_target
from cfdg_jax.core.networks import mlp
from cfdg_jax.core.optim import adam, polyak
from cfdg_jax.core.packed import pack
from cfdg_jax.training.logging import device_name
from cfdg_jax.training.program import agent_of
from cfdg_jax.types import Batch

SEEDS, UPDATES, ROWS, ROUNDS = 5, 9, 256, 20
Q, V, PI = slice(0, 2), 2, 3
"""Lanes of the stack."""


def stacked(obs: int, act: int):
    """``(init(key) -> state, update(state, batches, key, step) -> (state, metrics))``; the state is a plain tuple."""
    network, optimiser = mlp(obs + act, act, (256, 256)), adam(3e-4)
    apply = jax.vmap(network.apply)
    of = lambda params, lanes: jax.tree.map(lambda leaf: leaf[lanes], params)

    def init(key):
        one = lambda key: pack({**network.init(key), "log_std": jnp.zeros(act)})
        params = jax.vmap(one)(jax.random.split(key, 4))
        return params, jax.tree.map(jnp.copy, of(params, Q)), optimiser.init(params)

    def update_once(state, batch, step):
        params, target, moments = state
        pair = jnp.concatenate([batch.obs, batch.action], axis=1)
        alone = lambda x: jnp.pad(x, ((0, 0), (0, act)))
        inputs = jnp.stack([pair, pair, alone(batch.obs), alone(batch.obs)])
        target_q = apply(target, inputs[Q])[..., 0].min(axis=0)
        next_v = network.apply(of(params, V), alone(batch.next_obs))[:, 0]
        y = td_target(batch.reward, batch.terminal, next_v, 0.99)

        def loss(params):
            outputs = apply(params, inputs)
            v, mean, q = outputs[V, :, 0], jnp.tanh(outputs[PI]), outputs[Q, :, 0]
            weight, _ = awr_weight(target_q - v, 3.0)
            policy = Normal(mean, jnp.broadcast_to(jnp.clip(params["log_std"][PI], -20.0, 2.0), mean.shape))
            regression = -weight * policy.log_prob(batch.action)
            losses = expectile(target_q - v, 0.7), regression, td_loss(q, y, "mean")
            return sum(losses), (*losses, v, target_q - v, weight, q.mean(axis=0), y)

        params, moments, _, seen = descend(loss, optimiser, params, moments, step)
        metrics = {str(i): rows for i, rows in enumerate(seen)}
        return (params, polyak(target, of(params, Q), 0.005), moments), metrics

    def update(state, batches, key, step):
        return scan_updates(update_once, state, (batches, step + jnp.arange(UPDATES)))

    return init, update


def main() -> None:
    program = program_of("halfcheetah", SEEDS, 1_000, {"augment.width": 64, "agent.variant": "corl"}, "iql")
    obs, act = program.spec.obs_dim, program.spec.act_dim
    keys, lead = jax.random.split(jax.random.key(0), SEEDS), (SEEDS, UPDATES, ROWS)
    noise = lambda *width: jax.random.normal(jax.random.key(1), (*lead, *width))
    marks = jnp.zeros(lead, jnp.int32), jnp.ones(lead)
    batches = Batch(noise(obs), jnp.tanh(noise(act)), noise(), noise(obs), jnp.zeros(lead), noise(), *marks)
    agent, found, runs = agent_of(program, "offline"), {}, {}
    for name, (init, update) in {"separate": (agent.init, agent.update), "stacked": stacked(obs, act)}.items():
        state, mapped = jax.vmap(init)(keys), jax.vmap(update, (0, 0, 0, None))
        compiled = jax.jit(mapped, donate_argnums=0).lower(state, batches, keys, jnp.int32(0)).compile()
        text = hlo.parse(compiled.as_text())
        kinds = by_kind(text, hlo.turn(text, UPDATES))
        gflop = product_flop(mapped, state, batches, keys, jnp.int32(0)) / UPDATES / 1e9
        found[name] = {"kernels": sum(kinds.values()), "gflop": gflop, "kinds": kinds}
        runs[name] = [compiled, state, []]
    for _ in range(ROUNDS):
        for run in runs.values():
            start = time.perf_counter(), time.process_time()
            run[1], _ = jax.block_until_ready(run[0](run[1], batches, keys, jnp.int32(0)))
            run[2].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    for name, (_, _, times) in runs.items():
        medians = (1e3 * sorted(each)[len(each) // 2] / UPDATES for each in zip(*times, strict=True))
        found[name] |= dict(zip(("milliseconds", "cpu_milliseconds"), medians, strict=True))
    print(
        json.dumps({"command": command(), "device": device_name(), "seeds": SEEDS, "rounds": ROUNDS} | found, indent=2)
    )


if __name__ == "__main__":
    main()
