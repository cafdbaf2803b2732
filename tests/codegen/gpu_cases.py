# ruff: noqa: E501  (the text of a Spec is one line)
"""Specs for the kernels that GPUs get: every dataflow under every stabilizer, sizes of one, odd sizes, every kind of operand.

Without a GPU they run through Triton's launcher on the CPU engine (`test_gpu_launches`), with one on it (`test_on_gpu`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from codegen_cases import assert_close, make

from headrace.codegen import dataflows, kernel
from headrace.ir.device import Device
from headrace.ir.schedule import Schedule
from headrace.ir.spec import parse_spec

PRODUCT = "Gemm{{x={0}; weights=[w0:{0}[72,160]nk]; extras=[]; outputs=[{0} = acc_w0]; batched=false}}"
THREE = (
    "Gemm{{x={0}; weights=[w0:{0}[80,64]kn, w1:{0}[33,64]kn, w2:{0}[16,64]kn]; extras=[res:f32[mn]]; "
    "outputs=[{0} = acc_w0, f32 = add(acc_w1, res), {0} = acc_w2]; batched=false}}"
)
GATED = (
    "Gemm{{x={0}; weights=[w0:{0}[64,128]nk, w1:{0}[64,128]nk]; extras=[c:f32[], keep:b8[mn], o:i64[n]]; "
    "outputs=[f32 = where(keep, mul(mul(acc_w0, sigmoid(acc_w0)), mul(c, acc_w1)), o)]; batched=false}}"
)
BATCHED = (
    "Gemm{{x={0}; weights=[w0:{0}[40,96]nk, w1:{0}[40,96]kn]; extras=[c:f32[bm]]; "
    "outputs=[{0} = mul(acc_w0, acc_w1), f32 = mul(acc_w0, c)]; batched=true}}"
)
SOFTMAX = (
    "Rows{{inputs=[x:{0}[rn]]; reductions=[m = max(x), s = sum(exp(sub(x, m)))]; "
    "outputs=[{0} = div(exp(sub(x, m)), s), f32 = add(m, log(s))]; reduced=[1]; phi=0}}"
)
NORM = (
    "Rows{{inputs=[x:{0}[rn], w:{0}[n]]; reductions=[s = sum(mul(x, x))]; "
    "outputs=[{0} = mul(mul(x, rsqrt(add(div(s, count), 1e-05))), w)]; reduced=[]}}"
)
KINDS = (
    "Rows{{inputs=[x:{0}[rn], w:f16[n], scale:f32[r], e:f32[], k:i32[rn], keep:b8[rn]]; "
    "reductions=[a = sum(where(keep, x, 0.0)), z = prod(add(1.0, mul(0.01, x))), low = min(mul(x, k)), top = max(sub(x, a)), c = sum(scale)]; "
    "outputs=[f32 = add(mul(mul(x, w), scale), mul(e, low)), f32 = add(mul(z, scale), add(c, top)), f16 = a, b8 = gt(x, low)]; "
    "reduced=[1, 2]}}"
)


def attention(heads: str, dims: str, mask: str, extras: str, score: str = "mul(s, 0.25)", normalizer: str = "exp/sum/unified(0)",
              safe: str = "false") -> str:  # fmt: skip
    return (
        f"Attention{{{{q={{0}}; k={{0}}; v={{0}}; out={{0}}; heads=[{heads}]; dims=[{dims}]; score={score}; mask={mask}; "
        f"normalizer={normalizer}; safe={safe}; extras=[{extras}]}}}}"
    )


CAUSAL = attention("6, 2, 2", "24, 40", "le(j, add(i, p))", "p:i64[]")
RAGGED = attention("4, 2, 1", "16, 16", "lt(j, n)", "n:i64[b]")
CAPPED = attention(
    "4, 4, 4", "32, 32", "and(ge(j, sub(i, 9)), le(j, i))", "", "mul(tanh(div(s, 20.0)), 20.0)"
)
BIASED = attention(
    "4, 4, 4", "16, 16", "keep", "keep:b8[bij], bias:f32[hij]", "add(s, bias)", "exp/sum/online", "true"
)
SIGMOID = attention("2, 2, 2", "16, 16", "le(j, i)", "", normalizer="sigmoid/none/none")
LONG = attention("8, 2, 2", "128, 128", "le(j, add(i, p))", "p:i64[]", "mul(s, 0.08838834764831845)")


@dataclass(frozen=True)
class Case:
    """A Spec with `{0}` for the dtype, run-time sizes, and the knobs that differ from a device's default."""

    title: str
    spec: str
    flow: str
    sizes: tuple[int, ...]
    knobs: dict[str, int | str] = field(default_factory=dict)

    def text(self, dtype: str) -> str:
        return self.spec.format(dtype)


def _products() -> Iterator[Case]:
    flows: tuple[tuple[str, dict[str, int | str]], ...] = (
        ("gemv", {}), ("gemv", {"reduce": "row"}), ("flat", {"split_k": 1}), ("flat", {"split_k": 3}),
        ("tiled", {}), ("stream_k", {"workers": 5}),
    )  # fmt: skip
    for flow, knobs in flows:
        how = ", ".join([flow, *(f"{name}={value}" for name, value in knobs.items())])
        for m in (1, 3, 17, 40):
            for name, spec in (("product", PRODUCT), ("three outputs", THREE), ("gate", GATED)):
                yield Case(f"{name}, M = {m}, {how}", spec, flow, (m,), knobs)
        for b, m in ((1, 1), (3, 5)):
            yield Case(f"batched, {b} x {m}, {how}", BATCHED, flow, (b, m), knobs)


def _attentions() -> Iterator[Case]:
    specs = (("causal", CAUSAL, True), ("lengths", RAGGED, True), ("window", CAPPED, True),
             ("bias", BIASED, False), ("sigmoid", SIGMOID, False))  # fmt: skip
    flows: tuple[tuple[str, tuple[int, ...], dict[str, int | str]], ...] = (
        ("prefill", (2, 37, 53), {}), ("prefill", (1, 1, 1), {}), ("decode", (2, 1, 77), {"splits": 1}),
        ("decode", (2, 4, 77), {"splits": 3}), ("decode", (1, 1, 1), {"splits": 4}),
        ("decode", (1, 3, 77), {"splits": 1}), ("stream_decode", (3, 1, 77), {"workers": 5}),
        ("stream_decode", (1, 3, 77), {"workers": 2}), ("stream_decode", (1, 1, 1), {"workers": 2}),
    )  # fmt: skip
    for name, spec, scaled in specs:
        for flow, sizes, knobs in flows:
            for how in ("online", "lazy", "pair", "unified") if scaled else ("",):
                chosen = knobs | ({"stabilizer": how} if how else {})
                yield Case(f"{name}, {flow} {sizes} {chosen}", spec, flow, sizes, chosen)


def _rows() -> Iterator[Case]:
    for flow in ("row", "row_loop", "row_split"):
        for sizes in ((5, 700), (1, 1), (300, 70)):
            for name, spec in (("norm", NORM), ("kinds", KINDS)):
                yield Case(f"{name}, {flow} {sizes}", spec, flow, sizes)
            for how in ("",) if flow == "row" else ("three_pass", "online", "lazy", "pair", "unified"):
                knobs: dict[str, int | str] = {"stabilizer": how} if how else {}
                knobs |= {"block_r": 1} if flow == "row_loop" else {}
                yield Case(f"softmax, {flow} {sizes} {how}", SOFTMAX, flow, sizes, knobs)


CASES = (*_products(), *_attentions(), *_rows())


def legal(case: Case, dtype: str) -> bool:
    """A constant maximum is not for float16 values on GPUs."""
    return dtype != "f16" or case.knobs.get("stabilizer") != "unified" or case.spec is SOFTMAX


def instantiate(case: Case, dtype: str, device: Device) -> kernel.Kernel:
    """The default of a device with the case's knobs."""
    spec = parse_spec(case.text(dtype))
    default = dataflows.get(case.flow).default(spec, case.sizes, device)
    schedule = Schedule(case.flow, tuple((dict(default.knobs) | case.knobs).items()))
    return kernel.instantiate(spec, schedule, device)


def on(where: torch.device, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [operand.to(where) for operand in inputs]


def back(result: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor | tuple[torch.Tensor, ...]:
    return tuple(r.cpu() for r in result) if isinstance(result, tuple) else result.cpu()


def hold(case: Case, dtype: str, device: Device, where: torch.device) -> kernel.Kernel:
    """Run on tensors there, against the float64 reference; rows that are in range do not fall back."""
    spec = parse_spec(case.text(dtype))
    inputs = make(spec, case.sizes, seed=1)
    built = instantiate(case, dtype, device)
    assert_close(spec, back(built(on(where, inputs))), inputs)
    assert built.fallback_rows == 0
    return built
