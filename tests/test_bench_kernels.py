"""Counts of kernels, on programs whose kernels are known: written by hand, and compiled with a known difference."""

import jax
import jax.numpy as jnp
import pytest

from cfdg_jax.bench import hlo, kinds
from cfdg_jax.bench.kernels import table, update_kernels
from cfdg_jax.bench.programs import program_of
from cfdg_jax.errors import UserError

PROGRAM = """\
HloModule jit_step, entry_computation_layout={(f32[4,4]{1,0})->f32[4,4]{1,0}}

%fused_add (p: f32[4,4]) -> f32[4,4] {
  %p = f32[4,4]{1,0} parameter(0)
  ROOT %a = f32[4,4]{1,0} add(%p, %p)
}

%fused_dot (p: f32[4,4]) -> f32[4,4] {
  %p = f32[4,4]{1,0} parameter(0)
  ROOT %d = f32[4,4]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%small (p: f32[4,4]) -> f32[4,4] {
  %p = f32[4,4]{1,0} parameter(0)
  ROOT %c = f32[4,4]{1,0} copy(%p)
}

%large (p: f32[4,4]) -> f32[4,4] {
  %p = f32[4,4]{1,0} parameter(0)
  %f = f32[4,4]{1,0} fusion(%p), kind=kLoop, calls=%fused_add
  ROOT %g = (f32[4,4]{1,0}, /*index=1*/u8[16]{0}) custom-call(%f), custom_call_target="__cublas$gemm"
}

%body (t: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %t = (s32[], /*index=1*/f32[4,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[4,4]{1,0} get-tuple-element(%t), index=1
  %f.1 = f32[4,4]{1,0} fusion(%x), kind=kLoop, calls=%fused_add
  %f.2 = f32[4,4]{1,0} fusion(%f.1), kind=kCustom, calls=%fused_dot
  %y = f32[4,4]{1,0} conditional(%i, %f.2, %f.2), branch_computations={%small, %large}
  %z = f32[4,4]{1,0} custom-call(%y), custom_call_target="TopK"
  ROOT %r = (s32[], f32[4,4]{1,0}) tuple(%i, %z)
}

%cond (t: (s32[], f32[4,4])) -> pred[] {
  %t = (s32[], f32[4,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %n = s32[] constant(9)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[4,4]) -> f32[4,4] {
  %x = f32[4,4]{1,0} parameter(0)
  %c = f32[4,4]{1,0} copy(%x), metadata={op_name="jit(step)/copy(x)"}
  %q = f32[4,4]{1,0} call(%c), to_apply=%small
  %zero = s32[] constant(0)
  %s = (s32[], f32[4,4]{1,0}) tuple(%zero, %q)
  %w = (s32[], f32[4,4]{1,0}) while(%s), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"9"}}
  ROOT %o = f32[4,4]{1,0} get-tuple-element(%w), index=1
}
"""
TURN = {"fusions": 3, "product fusions": 1, "products": 1, "custom calls": 1, "others": 1}
"""Two fusions and the dear branch's third; its product; TopK; the unfused comparison."""


def test_a_turn_holds_its_body_its_condition_and_the_dearest_branch():
    text = hlo.parse(PROGRAM)
    turn = hlo.kernels(text, hlo.turn(text, 9))
    assert turn == TURN
    assert hlo.launches(turn) == 6  # a fusion that holds a product is one kernel


def test_the_entry_turns_its_loops_and_enters_its_calls():
    assert hlo.kernels(hlo.parse(PROGRAM)) == {kind: 9 * count for kind, count in TURN.items()} | {"copies": 2}


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(UserError, match="no loop of 8 turns"):
        hlo.turn(hlo.parse(PROGRAM), 8)
    with pytest.raises(UserError, match="unknown times"):
        hlo.kernels(hlo.parse(PROGRAM.replace("known_trip_count", "other")))
    with pytest.raises(UserError, match="no entry"):
        hlo.parse("nothing of the kind")


def test_a_compiled_scan_counts_as_many_products_as_are_written():
    """Products that depend on one another can be neither merged nor dropped."""

    def products(count):
        def step(x, _):
            for _ in range(count):
                x = jnp.tanh(x @ x)
            return x, None

        compiled = jax.jit(lambda x: jax.lax.scan(step, x, None, length=9)[0]).lower(jnp.ones((64, 64))).compile()
        text = hlo.parse(compiled.as_text())
        turn = hlo.kernels(text, hlo.turn(text, 9))
        return turn["products"] + turn["product fusions"]

    assert [products(count) for count in (1, 2, 5)] == [1, 2, 5]


def test_an_update_of_an_agent_is_counted():
    """IQL: 5 forward passes of 3 layers, backwards 3 networks of 5 products; a layer of one output may fuse."""
    counts = update_kernels(program_of("halfcheetah", 2, 1_000, {"augment.width": 64}))
    assert 20 <= counts["products"] + counts["product fusions"] <= 30
    assert counts["all"] == sum(counts[kind] for kind in hlo.KINDS) == sum(counts["kinds"].values())
    assert counts["copies"] <= 4, "large arrays are stepped in place, one loop counter and three small vectors are not"
    networks, of_adam = 3, 3  # two moments and the parameters, of the packed vector and of the one large array
    assert counts["kinds"]["Adam"] == networks * 2 * of_adam and counts["kinds"]["bias corrections"] == networks * 2
    assert counts["kinds"]["averages"] == 2 and counts["kinds"]["joined gradients"] == networks
    assert f"| products | {counts['products'] + counts['product fusions']} |" in kinds.table({"iql": counts["kinds"]})
    after = counts | {"fusions": 1}
    assert f"{counts['fusions']} -> 1 |" in table({"one": after, "seeds": 2}, {"one": counts})
