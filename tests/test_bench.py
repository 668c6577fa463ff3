"""The benchmark's count of FLOP, which every share of the matrix-product rate rests on."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from cfdg_jax import cli
from cfdg_jax.bench import measure
from cfdg_jax.bench.programs import program_of
from cfdg_jax.core.flops import product_flop
from cfdg_jax.errors import UserError
from cfdg_jax.training.learn import no_meters, offline_chunk
from cfdg_jax.training.prepare import init

X, W = jnp.ones((8, 16)), jnp.ones((16, 32))
ONE = 2.0 * 8 * 16 * 32


def test_parts_of_one_machine_gather_in_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "PARTS", {name: lambda quick: {"rate": 1.0} for name in ("one", "two")})
    monkeypatch.setattr(measure, "matmul_gflops", lambda size: 1.0)
    out = tmp_path / "bench.json"
    measure.bench(["one"], out)
    measure.bench(["two"], out)
    found = json.loads(out.read_text())
    assert {"one", "two"} < set(found) and found["command"] == "cfdg-jax bench one; cfdg-jax bench two"
    monkeypatch.setattr(measure, "device_name", lambda: "another")
    measure.bench(["two"], out)
    assert "one" not in json.loads(out.read_text())
    monkeypatch.chdir(tmp_path)
    parts = {"agents": lambda quick, agents: {"rate": agents}, "one": lambda quick: {}}
    monkeypatch.setattr(measure, "PARTS", parts)
    of_some = measure.bench(["agents"], agents=["iql", "pex"])
    found = json.loads(of_some.read_text())
    assert found["agents"]["rate"] == ["iql", "pex"] and found["command"].endswith("--agent iql --agent pex")
    assert of_some.name == "bench-cpu-iql-pex.json", "some agents' rates replace no others'"
    with pytest.raises(UserError, match="--agent: is nothing to one; goes with agents kernels"):
        measure.bench(["one"], agents=["iql"])
    assert measure.bench(["one"], quick=True).name.endswith("-quick.json"), "crude rates replace no others"


def test_what_was_measured_before_ctrl_c_is_in_the_file(tmp_path, monkeypatch):
    def pressed(quick):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "PARTS", {"one": lambda quick: {"rate": 1.0}, "two": pressed})
    monkeypatch.setattr(measure, "matmul_gflops", lambda size: 1.0)
    out = tmp_path / "bench.json"
    with pytest.raises(KeyboardInterrupt):
        measure.bench([], out)
    found = json.loads(out.read_text())
    assert found["one"]["rate"] == 1.0 and "two" not in found and found["command"] == "cfdg-jax bench one"


def test_where_the_rates_go_is_looked_at_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "PARTS", {"one": lambda quick: pytest.fail("measured")})
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "file").touch()
    for path, said in ((tmp_path, "cannot be written"), (tmp_path / "file" / "x.json", "cannot be written")):
        with pytest.raises(UserError, match=f"{said}.*name another with --out"):
            measure.bench(["one"], path)
    with pytest.raises(UserError, match=r"is no json .* and would be replaced; name another with --out"):
        measure.bench(["one"], tmp_path / "bad.json")
    assert (tmp_path / "bad.json").read_text() == "{" and len(list(tmp_path.iterdir())) == 2


def test_the_help_says_what_each_part_measures_and_for_which_agents(capsys):
    assert cli.main(["bench", "--help"]) == 0
    told = capsys.readouterr().out
    assert re.findall(r"^  (\w+)  +\w", told.split("Options:")[0], re.M) == list(measure.PARTS)
    assert "measure these agents only; WHAT is then agents, kernels or both" in " ".join(told.split())


def test_the_other_library_is_measured_by_a_script_of_the_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(pathlib.Path(__file__).parents[1])
    assert cli.main(["bench", "--against", "torch", "--quick"]) == 2
    assert "--against: takes no --quick; its own options: python benchmarks/against_torch.py" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "--against", "torch"]) == 2
    assert "run it in a checkout of the project" in capsys.readouterr().err
    pathlib.Path("benchmarks").mkdir()
    pathlib.Path("benchmarks/against_torch.py").write_text("raise SystemExit(7)")
    assert cli.main(["bench", "--against", "torch"]) == 7


def test_products_are_counted_wherever_they_stand():
    square = W @ W.T
    times_five = lambda x: jax.lax.scan(lambda carry, _: (carry @ square, None), x, None, length=5)[0]
    assert product_flop(lambda x: jnp.tanh(x @ W), X) == ONE
    assert product_flop(jax.jit(jax.vmap(lambda row: row @ W)), X) == ONE
    assert product_flop(times_five, X) == 5 * ONE / 2
    assert product_flop(jax.grad(lambda w, x: (x @ w).sum(), (0, 1)), W, X) == 3 * ONE  # forwards, and to both sides


def test_a_conditional_takes_its_dear_branch_once_in_delay_calls():
    function = lambda x, due: jax.lax.cond(due, lambda x: (x @ W).sum(), lambda x: x.sum(), x)
    assert product_flop(function, X, True, delay=4) == ONE / 4


def test_loops_of_unknown_length_are_refused():
    loop = lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ W @ W.T, x)
    with pytest.raises(UserError, match="unknown times"):
        product_flop(loop, X)


def test_iql_costs_what_its_networks_cost():
    """Halfcheetah, batch 256: products of forward passes and three times them where a gradient is taken."""
    program = program_of("halfcheetah", 1, 1_000, {"augment.width": 64})
    carry = init(program, "offline"), no_meters(program, "offline"), program.offline_rows
    layers = lambda inputs, outputs: inputs * 256 + 256 * 256 + 256 * outputs
    critic, value, policy = layers(17 + 6, 1), layers(17, 1), layers(17, 6)
    # no gradient is taken with respect to the inputs of the first layers
    trained = 3 * (2 * critic + value + policy) - 256 * (2 * (17 + 6) + 17 + 17)
    expected = 2.0 * 256 * (trained + 2 * critic + 2 * value)
    counted = product_flop(lambda *args: offline_chunk(program, *args, 10), *carry) / 10
    assert counted == pytest.approx(expected, rel=0.05)
