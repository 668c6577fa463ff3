"""What bounds an update of small networks: its own products beside large ones, and the update, in one run.

    python benchmarks/small_products.py [--out benchmarks/results/small-products.json]

Products of 256 rows with the layers of a network of 256 units at halfcheetah sizes (17 observations, 6 actions), alone
and for several seeds at once. Each is repeated within one program, so that launching it costs nothing.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import jax
from called import command

from cfdg_jax.bench.programs import best_seconds, matmul_gflops, program_of
from cfdg_jax.bench.rates import update_rate
from cfdg_jax.training.logging import device_name, versions

LAYERS = {"first": (23, 256), "hidden": (256, 256), "last of a policy": (256, 6)}
FLOP_OF_A_CALL = 4e9
REPEATS = 5


def product_gflops(inputs: int, outputs: int, seeds: int) -> float:
    """The rate of products ``[seeds, 256, inputs] @ [seeds, inputs, outputs]``."""
    x = jax.random.normal(jax.random.key(0), (seeds, 256, inputs))
    w = jax.random.normal(jax.random.key(1), (seeds, inputs, outputs))
    flop = 2 * seeds * 256 * inputs * outputs
    times = int(FLOP_OF_A_CALL / flop)

    def again(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        width = min(inputs, outputs)  # the next product waits for this one, at the cost of one addition
        return x.at[..., :width].add(1e-6 * (x @ w)[..., :width]), None

    call = jax.jit(lambda x: jax.lax.scan(again, x, None, length=times)[0])
    return flop * times / best_seconds(lambda: call(x), REPEATS) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/small-products.json"))
    out = parser.parse_args().out
    results = {"command": command(), "device": device_name(), "versions": versions()}
    before, measured = matmul_gflops(), {}
    for seeds in (1, 5):
        products = {name: product_gflops(*shape, seeds) for name, shape in LAYERS.items()}
        update = update_rate(program_of("halfcheetah", seeds, 100_000, {"augment.width": 64}), 250, REPEATS)
        measured[f"seeds_{seeds}"] = {"products_gflops": products, "update": update}
    results["matmul_gflops"] = large = max(before, matmul_gflops())
    for each in measured.values():
        rate, hidden = each["update"]["gflops"], each["products_gflops"]["hidden"]
        each["update"] |= {"of_large": rate / large, "of_hidden": rate / hidden}
    results |= measured
    text = json.dumps(results, indent=2)
    print(text)
    out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
