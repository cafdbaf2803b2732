"""The launcher of a kernel as Python text: straight-line code that checks, allocates, and calls.

A call costs as much as the kernels it launches are small, so nothing here is looped over or looked up at
run time: each variant of a kernel gets two functions, `call(inputs)` and `into(inputs, outputs)`. Operands
that break the variant's assumptions go to `otherwise`, which makes them fit (see `kernel.py`).

On a GPU two more things are seen to. Triton launches on the current device, so operands on another one are
taken there first. And a grid has limits: sizes beyond them go to `otherwise`, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headrace import upstream
from headrace.codegen.knobs import most_programs
from headrace.codegen.plan import Buffer, Launch, Plan
from headrace.ir.device import Backend, Device
from headrace.ir.spec import Attention, Rows, Spec

Call = Callable[[Sequence[Any]], Any]
Into = Callable[[Sequence[Any], Sequence[Any]], None]


def _strides(buffer: Buffer, transposed: bool) -> str:
    """Stride expressions of an allocation; attention writes [B, I, H, D] seen as [B, H, I, D]."""
    if transposed:
        _, h, i, d = buffer.shape
        return f"({i} * {int(h) * int(d)}, {d}, {int(h) * int(d)}, 1)"
    return (
        "("
        + "".join(f"{' * '.join(buffer.shape[at + 1 :]) or '1'}, " for at in range(len(buffer.shape)))
        + ")"
    )


def _allocation(buffer: Buffer, like: str, *, cpu: bool, transposed: bool = False) -> str:
    dtype = f"dtype_{buffer.dtype.value}"
    device = "" if cpu else ", device=device"
    if buffer.shape[0].startswith(
        "*"
    ):  # Rows: an output of the first operand's shape, or of its leading dimensions
        if buffer.shape[0] != "*shape":
            return f"{buffer.name} = new({buffer.shape[0][1:]}, dtype={dtype}{device})"
        return f"{buffer.name} = empty((*shape,), {like}.stride(), {'' if cpu else 'dtype='}{dtype}{device})"
    shape = "(" + "".join(f"{part}, " for part in buffer.shape) + ")"
    if cpu:
        return f"{buffer.name} = empty({shape}, {_strides(buffer, transposed)}, {dtype})"
    return f"{buffer.name} = empty({shape}, {_strides(buffer, transposed)}, dtype={dtype}, device=device)"


def numbers(spec: Spec) -> list[str]:
    """The operands without a dimension, as launchers name them."""
    extras = spec.inputs if isinstance(spec, Rows) else spec.extras
    return [f"{extra.name}_t" for extra in extras if not extra.dims]


def grid_limits(plan: Plan, device: Device) -> str:
    """Where the grids of a plan are small enough for a GPU, as a Python expression over the sizes; empty on a
    CPU, and where they always are."""
    if device.backend is Backend.CPU:
        return ""
    tests = {
        f"{extent} <= {most}": None
        for launch in plan.launches
        for extent, most in zip(launch.grid, most_programs(device, launch.num_warps), strict=True)
        if most and not extent.isdigit()
    }
    return " and ".join(tests)


def in_grid(plan: Plan, device: Device, sizes: Mapping[str, int]) -> bool:
    """Whether a GPU can launch a plan at sizes (`B`, `M`, ...); `call` leaves the others to `otherwise`."""
    return bool(eval(grid_limits(plan, device) or "True", {}, dict(sizes)))


def _conditions(plan: Plan) -> str:
    checks = [f"{name}.is_contiguous()" for name in plan.contiguous]
    checks += [f"{name}_strides[-1] == 1" for name in plan.inner]
    checks += list(plan.exact)
    names = [name.strip() for text, _ in plan.sizes for name in text.split(",")]
    fixed = {text.partition(" == ")[0] for text in plan.exact}
    checks += [
        f"{name} > 0" for name in names if name in ("B", "M", "I", "J", "R", "N") and name not in fixed
    ]
    return " and ".join(checks)


def _launch(launch: Launch, at: int, *, direct: bool, pointers: frozenset[str]) -> str:
    grid = ", ".join(launch.grid)
    if direct:
        hosts = [f"{p.host}.data_ptr()" if p.host in pointers else p.host for p in launch.params]
        return f"launch_{at}({grid}, {', '.join(hosts)})"
    hosts = [p.host for p in launch.params]
    options = f"num_warps={launch.num_warps}, num_stages={launch.num_stages}, enable_fp_fusion=True"
    return f"launch_{at}[({grid})]({', '.join(hosts)}, {options})"


def source(plan: Plan, spec: Spec, device: Device, *, direct: bool) -> str:
    """The text of `call` and `into`.

    Args:
        direct: launchers take addresses (the CPU engine's direct path); otherwise tensors (`@triton.jit`).
    """
    cpu = device.backend is Backend.CPU
    pointers = frozenset(
        (*plan.operands, *(b.name for b in (*plan.outputs, *plan.workspace)), *plan.counters)
    )
    transposed = isinstance(spec, Attention)
    unpack = f"{', '.join(plan.operands)}, = inputs"
    here = [] if cpu else [f"device = {plan.operands[0]}.device"]
    sizes = [f"{name} = {value}" for name, value in plan.sizes]
    workspace = [_allocation(b, plan.operands[0], cpu=cpu) for b in plan.workspace]
    outputs = [_allocation(b, plan.operands[0], cpu=cpu, transposed=transposed) for b in plan.outputs]
    if not cpu:
        workspace += [f"{name} = count_{name}(device)" for name in plan.counters]
    strides = ["o_strides = o.stride()"] if transposed else []
    launches = [
        _launch(launch, at, direct=direct, pointers=pointers) for at, launch in enumerate(plan.launches)
    ]
    names = ", ".join(b.name for b in plan.outputs)
    tests = [_conditions(plan), grid_limits(plan, device)]
    # PyTorch lets a number in main memory meet tensors of a GPU.
    tests += [] if cpu else [f"{name}.is_cuda == {plan.operands[0]}.is_cuda" for name in numbers(spec)]
    conditions = " and ".join(filter(None, tests)) or "True"
    written = "" if transposed else " and ".join(f"{b.name}.is_contiguous()" for b in plan.outputs)
    written = "o_strides[-1] == 1" if transposed else written
    call = [
        "def call(inputs):", unpack, *sizes,
        f"if not ({conditions}):", "    return otherwise(inputs, None)",
        *here, *_moved(here, "return on(device, call, inputs)"),
        *outputs, *strides, *workspace, *launches, f"return {names}",
    ]  # fmt: skip
    into = [
        "def into(inputs, outputs):", unpack, f"{names}, = outputs", *sizes, *strides,
        f"if not ({conditions} and {written}):", "    otherwise(inputs, outputs)", "    return",
        *here, *_moved(here, "return on(device, into, inputs, outputs)"), *workspace, *launches,
    ]  # fmt: skip
    return "\n".join(
        [call[0], *(f"    {line}" for line in call[1:]), "", "", into[0], *(f"    {x}" for x in into[1:]), ""]
    )


def _moved(here: list[str], call: str) -> list[str]:
    return ["if elsewhere(device):", f"    {call}"] if here else []


def _elsewhere(device: Any) -> bool:
    """Whether a tensor's device is not the one that kernels are launched on."""
    import torch

    return device.index is not None and bool(device.index != torch.cuda.current_device())


def _on(device: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    import torch

    with torch.cuda.device(device):
        return function(*arguments)


def bind(plan: Plan, spec: Spec, launchers: Sequence[Any], otherwise: Callable[..., Any],
         counter: Callable[[Any], Any], device: Device, *, direct: bool) -> tuple[Call, Into]:  # fmt: skip
    """The two functions, bound to compiled kernels; `counter(device)` is the tensor behind a counter."""
    import torch

    cpu = device.backend is Backend.CPU
    text = source(plan, spec, device, direct=direct)
    scope: dict[str, Any] = {f"launch_{at}": launcher for at, launcher in enumerate(launchers)}
    scope |= {f"dtype_{b.dtype.value}": b.dtype.to_torch() for b in (*plan.outputs, *plan.workspace)}
    scope |= {"otherwise": otherwise, "new": torch.empty, "empty": torch.empty_strided}
    scope |= {name if cpu else f"count_{name}": counter("cpu") if cpu else counter for name in plan.counters}
    if cpu:
        scope["empty"] = upstream.empty_strided_cpu()
    else:
        scope |= {"elsewhere": _elsewhere, "on": _on}
    exec(compile(text, f"<launcher of {plan.template}>", "exec"), scope)
    return scope["call"], scope["into"]
