"""Build a kernel for a target that need not be present, and report what the artefact needs.

`cuda:90`, `hip:gfx942` and the other targets of `targets.GPU_TARGETS` are built by Triton's own compilers
down to cubin and hsaco; `cpu` by the CPU engine for this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.codegen import families
from headrace.codegen.modules import constants_of, module_of
from headrace.codegen.plan import Launch
from headrace.codegen.render import render
from headrace.codegen.resources import Resources, read_amdgcn, read_cubin
from headrace.codegen.targets import device_of
from headrace.errors import BuildError
from headrace.ir.device import Backend, Device
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Spec


@dataclass(frozen=True)
class BuiltKernel:
    """One kernel of an artefact: its name, its binary, and what it needs."""

    name: str
    binary: bytes
    resources: Resources
    assembly: str


@dataclass(frozen=True)
class Artifact:
    """What a schedule became for a target."""

    target: str
    source: str
    kernels: tuple[BuiltKernel, ...]

    @property
    def spills(self) -> int:
        """Bytes spilled by all kernels together."""
        return sum(kernel.resources.spills for kernel in self.kernels)


def build(spec: Spec, schedule: Schedule, target: str, sizes: tuple[int, ...]) -> Artifact:
    """Build for a target, with operands in their usual layout and pointers aligned to 16 bytes.

    Raises:
        BuildError: the target is unknown, or its compiler rejects the kernel.
        ScheduleError: the schedule does not fit the Spec.
    """
    device = _cpu() if target == "cpu" else device_of(target)
    plan = families.plan(spec, schedule, device, families.facts(spec, schedule, sizes))
    source = render(plan.template, plan.context)
    _, module = module_of(plan.template, source)
    built = tuple(_build(module, launch, target, device) for launch in plan.launches)
    return Artifact(target, source, built)


def _cpu() -> Device:
    return Device("this machine", Backend.CPU, "x86_64", 1)


def _build(module: Mapping[str, Any], launch: Launch, target: str, device: Device) -> BuiltKernel:
    function = module[launch.function]
    signature = {p.name: p.type for p in launch.params}
    if device.backend is Backend.CPU:
        from headrace.codegen.cpu.direct import compile_direct

        kernel = compile_direct(function, signature, constants_of(function))
        return BuiltKernel(launch.function, b"", Resources(0, 0, 0, ()), kernel.asm)
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = constants_of(function)
    full = {name: signature.get(name, "constexpr") for name in function.arg_names}
    # As at a usual launch: addresses and strides are multiples of 16, sizes are not.
    aligned = {p.name for p in launch.params if p.type.startswith("*") or p.type == "i64"}
    attrs = {
        (at,): [["tt.divisibility", 16]] for at, name in enumerate(function.arg_names) if name in aligned
    }
    arch: int | str = device.arch if device.backend is Backend.ROCM else int(device.arch.removeprefix("sm_"))
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages, "enable_fp_fusion": True}
    try:
        made = triton.compile(
            ASTSource(function, full, constants, attrs),
            target=GPUTarget(device.backend.value, arch, device.warp),
            options=options,
        )
    except Exception as error:
        raise BuildError(
            f"{launch.function} does not build for {target}: {type(error).__name__}: {error}"
        ) from error
    if device.backend is Backend.ROCM:
        text = made.asm["amdgcn"]
        return BuiltKernel(
            launch.function, made.asm["hsaco"], read_amdgcn(text, int(made.metadata.shared)), text
        )
    binary = made.asm["cubin"]
    resources, sass = read_cubin(binary, int(made.metadata.shared))
    return BuiltKernel(launch.function, binary, resources, sass)
