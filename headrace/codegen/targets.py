"""Targets that kernels are built for without the hardware, and the examples that are built for them.

The cards that stand for the architectures, and the sources of their figures, are in `ir/devices.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.codegen import dataflows
from headrace.errors import BuildError
from headrace.ir.device import Device
from headrace.ir.devices import TARGETS
from headrace.ir.schedule import Schedule, Value
from headrace.ir.spec import parse_spec

GPU_TARGETS: Mapping[str, Device] = TARGETS


def device_of(target: str) -> Device:
    """The Device that a target's builds assume.

    Raises:
        BuildError: the target is not one of GPU_TARGETS.
    """
    if target not in GPU_TARGETS:
        raise BuildError(f"target {target!r} is unknown; known: {', '.join(GPU_TARGETS)}, cpu")
    return GPU_TARGETS[target]


@dataclass(frozen=True, slots=True)
class Example:
    """A Spec with sizes at which one dataflow is the natural choice; `knobs` that differ from the default."""

    title: str
    dataflow: str
    spec: str
    sizes: tuple[int, ...]
    knobs: tuple[tuple[str, Value], ...] = ()

    def schedule(self, device: Device) -> Schedule:
        """The dataflow's default for a device, with the example's own knobs."""
        default = dataflows.get(self.dataflow).default(parse_spec(self.spec), self.sizes, device)
        return Schedule(self.dataflow, tuple((dict(default.knobs) | dict(self.knobs)).items()))


_QKV = (
    "Gemm{{x={0}; weights=[w0:{0}[4096,4096]nk, w1:{0}[1024,4096]nk, w2:{0}[1024,4096]nk]; extras=[]; "
    "outputs=[{0} = acc_w0, {0} = acc_w1, {0} = acc_w2]; batched=false}}"
)
_GATE = (
    "Gemm{{x={0}; weights=[w0:{0}[14336,4096]nk, w1:{0}[14336,4096]nk]; extras=[]; "
    "outputs=[{0} = mul(mul(acc_w0, sigmoid(acc_w0)), acc_w1)]; batched=false}}"
)
_ATTENTION = (
    "Attention{{q={0}; k={0}; v={0}; out={0}; heads=[32, 8, 8]; dims=[128, 128]; "
    "score=mul(s, 0.08838834764831845); mask=le(j, add(i, p)); normalizer=exp/sum/online; "
    "safe=false; extras=[p:i64[]]}}"
)
_PERMITTED = _ATTENTION.replace("exp/sum/online", "exp/sum/unified(0)")
_SHARD = (
    "Gemm{{x={0}; weights=[w0:{0}[512,4096]nk]; extras=[r:{0}[mn]]; outputs=[{0} = add(r, acc_w0)]; "
    "batched=false}}"
)
_NORM = (
    "Rows{{inputs=[x:{0}[rn], w:{0}[n]]; reductions=[s = sum(mul(x, x))]; "
    "outputs=[{0} = mul(mul(x, rsqrt(add(div(s, count), 1e-05))), w)]; reduced=[]}}"
)
_SOFTMAX = (
    "Rows{{inputs=[x:{0}[rn]]; reductions=[m = max(x), s = sum(exp(sub(x, m)))]; "
    "outputs=[{0} = div(exp(sub(x, m)), s)]; reduced=[]}}"
)


def examples(dtype: str = "bf16") -> tuple[Example, ...]:
    """Every dataflow at the shapes of an 8-billion-parameter decoder; attention with every stabilizer."""
    exact = ("lazy", "pair")
    # A constant maximum with float16 values is refused on GPUs: weights of rows that are far from it vanish.
    constant = () if dtype == "f16" else ("unified",)
    rows: list[tuple[str, str, str, tuple[int, ...], tuple[tuple[str, Value], ...]]] = [
        ("QKV projections, M = 1", "gemv", _QKV, (1,), ()),
        ("QKV projections, M = 4", "gemv", _QKV, (4,), ()),
        ("gate and up with SwiGLU, M = 1", "gemv", _GATE, (1,), ()),
        ("QKV projections, M = 8", "flat", _QKV, (8,), ()),
        ("gate and up with SwiGLU, M = 16", "flat", _GATE, (16,), ()),
        ("shard of the O projection, M = 8", "flat", _SHARD, (8,), ()),
        ("QKV projections, M = 64", "flat", _QKV, (64,), ()),
        ("QKV projections, M = 8", "stream_k", _QKV, (8,), ()),
        ("shard of the O projection, M = 8", "stream_k", _SHARD, (8,), ()),
        ("QKV projections, M = 2048", "tiled", _QKV, (2048,), ()),
        ("gate and up with SwiGLU, M = 2048", "tiled", _GATE, (2048,), ()),
        ("attention, 4 queries, 8192 keys", "decode", _ATTENTION, (1, 4, 8192), ()),
        ("RMSNorm, 4096 columns", "row", _NORM, (2048, 4096), ()),
        ("softmax, 128256 columns", "row_loop", _SOFTMAX, (16, 128256), ()),
        ("softmax, one row of 4194304", "row_split", _SOFTMAX, (1, 1 << 22), ()),
    ]
    for way in ("", *exact, *constant):
        text = _PERMITTED if way in constant else _ATTENTION
        lengths = text.replace("le(j, add(i, p))", "lt(j, p)").replace("p:i64[]", "p:i64[b]")
        knobs: tuple[tuple[str, Value], ...] = (("stabilizer", way),) if way else ()
        how = f", {way}" if way else ""
        rows += [
            (f"attention, 2048 queries{how}", "prefill", text, (1, 2048, 2048), knobs),
            (f"attention, 1 query, 8192 keys{how}", "decode", text, (1, 1, 8192), knobs),
            (f"attention, 1 query, 8 lengths{how}", "stream_decode", lengths, (8, 1, 8192), knobs),
        ]
    return tuple(
        Example(title, flow, text.format(dtype), sizes, knobs) for title, flow, text, sizes, knobs in rows
    )
