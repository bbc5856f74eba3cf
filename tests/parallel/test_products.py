"""Products of compiled programs by type."""

import jax
import jax.numpy as jnp
import pytest

from vision.parallel.products import products

PROGRAM = """HloModule jit_step

%fused (q: bf16[8,8]) -> f32[8,8] {
  %q = bf16[8,8]{1,0} parameter(0)
  %wide = f32[8,8]{1,0} convert(%q)
  ROOT %product = f32[8,8]{1,0} dot(%wide, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (p: bf16[8,8]) -> f32[8,8] {
  %p = bf16[8,8]{1,0} parameter(0)
  %both = (bf16[8,8]{1,0}, s8[33554432]{0}) custom-call(%p, %p), custom_call_target="__cublas$lt$matmul"
  %more = (bf16[8,8]{1,0}, s8[33554432]{0}) custom-call(%p, %p), custom_call_target="__cublas$lt$matmul"
  %conv = (f32[8,8]{1,0}, u8[0]{0}) custom-call(%p, %p), custom_call_target="__cudnn$convForward"
  %norm = (bf16[8,8]{1,0}, u8[0]{0}) custom-call(%p, %p), custom_call_target="__cudnn$norm"
  %lost = bf16[8,8]{1,0} convolution(%p, %elsewhere), dim_labels=bf_io->bf
  ROOT %last = f32[8,8]{1,0} fusion(%p), kind=kLoop, calls=%fused, metadata={op_name="dot(x)"}
}
"""


def test_products_of_a_text():
    assert products(PROGRAM) == {
        "bf16 x bf16 -> bf16": 2,
        "f32 x bf16 -> f32": 1,
        "bf16 x bf16 -> f32": 1,
        "bf16 x ? -> bf16": 1,
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_of_a_program(dtype):
    x = jax.ShapeDtypeStruct((64, 64), dtype)
    found = products(jax.jit(lambda a, b: (a @ b) @ b).lower(x, x).compile().as_text())
    assert sum(found.values()) == 2
    assert all(kind.endswith(("f32", "bf16")) for kind in found)
    assert products(jax.jit(jnp.sum).lower(x).compile().as_text()) == {}
