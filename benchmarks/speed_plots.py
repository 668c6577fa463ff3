"""Draws the pictures of `docs/speed.md` from the results of the benchmark.

cfdg-jax bench scaling --out benchmarks/results/scaling-cpu.json
python benchmarks/devices.py
python benchmarks/speed_plots.py
"""

from __future__ import annotations

import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = pathlib.Path(__file__).parent / "results"
LABELS = {
    "seeds": "seeds in one run",
    "width": "width of both hidden layers",
    "batch": "rows of a batch",
    "updates_per_call": "updates in a call",
    "devices": "devices",
}


PROGRAMS = {"offline": "pre-training", "fit": "a generator's fit", "online": "online updates"}


def main() -> None:
    growth()
    memory()


def growth() -> None:
    """The cost of an update along each axis."""
    found = json.loads((RESULTS / "scaling-cpu.json").read_text(encoding="utf-8"))
    scaling = found["scaling"]
    axes = [axis for axis in LABELS if axis in scaling]
    figure, panels = plt.subplots(1, len(axes), figsize=(3.2 * len(axes), 2.8), layout="constrained")
    for panel, axis in zip(panels, axes, strict=True):
        values = [int(value) for value in scaling[axis]]
        rates = [point["updates_per_second"] for point in scaling[axis].values()]
        shares = [100 * point["gflops"] / scaling["matmul_gflops"] for point in scaling[axis].values()]
        panel.plot(values, rates, "o-", color="#0072b2")
        panel.set(xscale="log", xlabel=LABELS[axis], xticks=values, xticklabels=values, ylim=(0, 1.25 * max(rates)))
        panel.minorticks_off()
        for value, rate, share in zip(values, rates, shares, strict=True):
            panel.annotate(f"{share:.0f} %", (value, rate), (0, 6), textcoords="offset points", ha="center", fontsize=7)
    panels[0].set_ylabel("updates/s, all seeds")
    figure.suptitle(
        f"IQL, halfcheetah's sizes, {found['device']}; in small print the share of the product rate", size=9
    )
    figure.savefig(RESULTS / "scaling-cpu.png", dpi=150)


def memory() -> None:
    """What each of several devices holds."""
    found = json.loads((RESULTS / "devices.json").read_text(encoding="utf-8"))["devices"]
    figure, panels = plt.subplots(1, 2, figsize=(6.4, 2.8), layout="constrained")
    counts = [int(count) for count in found]
    for program, label in PROGRAMS.items():
        panels[0].plot(counts, [each["memory"][program] / 1e6 for each in found.values()], "o-", label=label)
    for part, label in (("ring", "rings"), ("critic", "part of the critics"), ("rows", "offline rows")):
        panels[1].plot(counts, [each["shards"][part] / 1e3 for each in found.values()], "o-", label=label)
    for panel, unit in zip(panels, ("MB, arguments of a call", "kB, arrays"), strict=True):
        panel.set(xscale="log", xlabel="devices", ylabel=unit, xticks=counts, xticklabels=counts)
        panel.minorticks_off()
        panel.legend(fontsize=7)
    panels[0].set_ylim(bottom=0)
    panels[1].set_yscale("log")
    figure.suptitle("what one device holds of eight small lanes", size=9)
    figure.savefig(RESULTS / "devices.png", dpi=150)


if __name__ == "__main__":
    main()
