"""Triton's compiler takes our kernels for an A100 and an H100, where there is none; what runs them is not asked."""

import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="no Triton here")


def test_every_kernel_compiles() -> None:
    work = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, timeout=500, check=False)
    assert work.returncode == 0, work.stderr[-2000:]
    assert work.stdout.split() == ["gather", "gather", "weight_gradient", "add_up", "spread", "spread"]


COMPILE = """
import os
os.environ.pop("TRITON_INTERPRET", None)
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from atfr.kernels import triton_depthwise, triton_sums

HALF = "maps weight bias output gradient of_rows"
TENSORS = dict.fromkeys(HALF.split(), "*bf16") | dict(
    sums="*fp32", of_weight="*fp32", begins="*i32", ends="*i32", order="*i64", slots="*i64"
)
window = dict(UNIT=2, KH=3, KW=3, SH=2, SW=2, PT=1, PH=1, PW=1, PIXELS=16, CHANNELS=64)
gather = dict(KT=3, BIAS=True, ACTIVATION="silu")
sums = dict(rows="*bf16", weight="*fp32", ends="*i64")
for kernel, constants, others, arch in [
    (triton_depthwise.gather, window | gather | dict(BACK=False), {}, 80),
    (triton_depthwise.gather, window | gather | dict(BACK=True), {}, 90),
    (triton_depthwise.weight_gradient, window | dict(STEPS=8), {}, 90),
    (triton_sums.add_up, dict(BLOCK=1024), sums, 80),
    (triton_sums.spread, dict(ROWS=True, BLOCK=1024), sums, 90),
    (triton_sums.spread, dict(ROWS=False, BLOCK=1024), sums, 80),
]:
    types = TENSORS | others | dict.fromkeys(constants, "constexpr")
    signature = {arg: types.get(arg, "i32") for arg in kernel.arg_names}
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(key),): value for key, value in constants.items()})
    assert triton.compile(source, target=GPUTarget("cuda", arch, 32)).asm["cubin"]
    print(kernel.__name__)
"""
