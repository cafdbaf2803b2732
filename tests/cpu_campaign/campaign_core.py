"""What a case of the differential campaign is, and how one is judged.

A :class:`Unit` is one compiled kernel. Its :class:`Launch`\\ es differ in shape, mask or data, and every
:class:`Check` of a launch is one case: an output that the reference lowering, the vector lowering and an
oracle that knows nothing of either must agree on.
"""

from __future__ import annotations

import hashlib
import pathlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import triton  # noqa: F401  (the backend package must not be the first to be imported)
from campaign_numbers import ulp

from headrace.codegen.cpu import jit, pipeline, runtime, target
from headrace.codegen.cpu.backend import compiler
from headrace.codegen.cpu.backend import options as cpu_options
from headrace.codegen.cpu.direct import gpu_target
from headrace.codegen.cpu.lower import INTERNAL, lower
from headrace.codegen.cpu.parse import parse
from headrace.errors import UnsupportedTtir
from tests.jit_text import load_kernel

Args = dict[str, Any]
TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float64: "fp64",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int16: "i16",
    torch.uint16: "u16",
    torch.int32: "i32",
    torch.uint32: "u32",
    torch.int64: "i64",
    torch.uint64: "u64",
    torch.bool: "i1",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.float8_e5m2: "fp8e5",
    torch.float8_e4m3fnuz: "fp8e4b8",
    torch.float8_e5m2fnuz: "fp8e5b16",
}


@dataclass(frozen=True)
class Check:
    """One case. ``pick`` takes what is compared out of the arguments after the launch, ``expect`` computes it
    from the arguments before the launch (None: only the two lowerings are compared).

    An error of ``ulps`` units in the last place plus ``scale`` times the largest expected value is allowed
    against the oracle, and between the lowerings unless ``same`` asks for equal bits there; zero means equal
    bits, apart from the payload of a NaN.
    """

    name: str
    pick: Callable[[Args], torch.Tensor]
    expect: Callable[[Args], torch.Tensor] | None = None
    ulps: float = 0.0
    scale: float = 0.0
    same: bool = False


@dataclass(frozen=True)
class Launch:
    """One grid of one kernel. ``make`` gives fresh arguments by name, the same at every call with a
    generator of the same seed."""

    name: str
    make: Callable[[torch.Generator], Args]
    checks: tuple[Check, ...]
    grid: tuple[int, int, int] = (1, 1, 1)


@dataclass(frozen=True)
class Unit:
    """A kernel: ``text`` is its body's source with ``def kernel(...)``."""

    name: str
    text: str
    launches: tuple[Launch, ...]
    constants: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)  # Triton types that the arguments do not tell
    options: dict[str, Any] = field(default_factory=dict)
    launched: bool = False  # through kernel[grid](...), as users do, instead of directly

    @property
    def cases(self) -> int:
        return sum(len(launch.checks) for launch in self.launches)


HEADER = """import triton
import triton.language as tl
from triton.language.extra import libdevice


"""


def kernel_text(parameters: str, *lines: str, helpers: str = "") -> str:
    """Source of a module with one kernel."""
    body = "\n".join("    " + line for text in lines for line in text.split("\n"))
    return f"{HEADER}{helpers}@triton.jit\ndef kernel({parameters}):\n{body}\n"


def type_name(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return "*" + TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


class Compiled:
    """A unit's kernel: Triton's frontend once, then each lowering when it is asked for."""

    def __init__(self, unit: Unit, folder: pathlib.Path) -> None:
        from triton._C.libtriton import ir
        from triton.compiler import ASTSource

        self.unit = unit
        self.fn = fn = load_kernel(unit.text, folder)
        self._code: dict[str, Callable[..., None]] = {}
        if unit.launched:
            return
        arguments = unit.launches[0].make(torch.Generator().manual_seed(1))
        kinds = {n: unit.kinds.get(n) or type_name(v) for n, v in arguments.items()}
        self.order = [n for n in fn.arg_names if n in kinds]
        signature = {n: kinds.get(n, "constexpr") for n in fn.arg_names}
        backend = compiler.CpuBackend(gpu_target())
        context = ir.context()
        ir.load_dialects(context)
        parsed = cpu_options.parse(dict(unit.options), backend.arch)
        implementation = backend.get_codegen_implementation(parsed)
        module = ASTSource(fn, signature, dict(unit.constants)).make_ir(
            backend.target, parsed, implementation, backend.get_module_map(), context
        )
        module.context = context
        self.text = str(pipeline.make_ttir(module, {}))

    def run(self, engine: str, launch: Launch, arguments: Args) -> None:
        """Launch once.

        Raises:
            UnsupportedTtir: this lowering does not take the kernel.
        """
        if self.unit.launched:
            given = {n: v for n, v in arguments.items() if n in self.fn.arg_names}
            self.fn[launch.grid](**given, **self.unit.constants, engine=engine)
            return
        code = self._code.get(engine)
        if code is None:
            host = target.host()
            lowered = lower(parse(self.text), host, engine)  # type: ignore[arg-type]  # one of ENGINES
            shared = runtime.get(host)
            loaded = jit.load(
                jit.emit(lowered.ir, host, lowered.passes).obj, (lowered.entry,), shared.known, host
            )
            code = shared.callable(loaded.addresses[lowered.entry], lowered.letters, loaded)
            self._code[engine] = code
        code(*launch.grid, *(arguments[n] for n in self.order))


@dataclass(frozen=True)
class Verdict:
    """``status``: ok, declined (the vector lowering does not take it; the reference agrees with the oracle),
    or mismatch, with the first difference."""

    case: str
    status: str
    detail: str = ""


def fresh(unit: Unit, launch: Launch) -> Args:
    seed = int.from_bytes(hashlib.sha256(f"{unit.name}/{launch.name}".encode()).digest()[:4], "big")
    return launch.make(torch.Generator().manual_seed(seed))


def judge(unit: Unit, folder: pathlib.Path) -> Iterator[Verdict]:
    """Run every case of a unit."""
    compiled = Compiled(unit, folder)
    reason = ""
    for launch in unit.launches:
        wanted = fresh(unit, launch)
        compiled.run("reference", launch, wanted)
        found = fresh(unit, launch)
        if not reason:
            try:
                compiled.run("vector", launch, found)
            except UnsupportedTtir as error:
                reason = str(error)
                if INTERNAL in reason:
                    raise
        before = fresh(unit, launch)
        for check in launch.checks:
            case = f"{unit.name}/{launch.name}/{check.name}"
            reference = check.pick(wanted)
            problem = ""
            if check.expect is not None:
                problem = difference(reference, check.expect(before), check)
                if problem:
                    problem = f"reference against the oracle: {problem}"
            if not problem and not reason:
                between = replace(check, ulps=0.0, scale=0.0) if check.same else check
                problem = difference(check.pick(found), reference, between)
                if problem:
                    problem = f"vector against the reference: {problem}"
            if problem:
                yield Verdict(case, "mismatch", problem)
            else:
                yield Verdict(case, "declined" if reason else "ok", reason)


def difference(found: torch.Tensor, wanted: torch.Tensor, check: Check) -> str:
    """The first difference that is not allowed, in words; empty if there is none."""
    if found.shape != wanted.shape:
        return f"shape {tuple(found.shape)} instead of {tuple(wanted.shape)}"
    if found.numel() == 0:
        return ""
    if not found.is_floating_point():
        wrong = found.to(torch.int64) != wanted.to(torch.int64)
        if found.dtype is torch.uint64:
            wrong = found.view(torch.int64) != wanted.to(torch.uint64).view(torch.int64)
    else:
        a, e = found.double(), wanted.double()
        same = (a == e) & (torch.signbit(a) == torch.signbit(e)) | (a.isnan() & e.isnan())
        if check.ulps or check.scale:
            finite = e[e.isfinite()]
            top = float(finite.abs().max()) if finite.numel() else 0.0
            room = check.ulps * ulp(e, found.dtype) + check.scale * top
            close = (a - e).abs() <= room
            # Next to the largest number one may round to infinity where the other does not.
            limit = torch.finfo(found.dtype).max
            edge = a.isinf() != e.isinf()
            near = edge & (a.nan_to_num(0, limit, -limit) - e.nan_to_num(0, limit, -limit)).abs().le(room)
            same = same | (a == e) | close | near
        wrong = ~same
    if not bool(wrong.any()):
        return ""
    at = tuple(int(x) for x in wrong.nonzero()[0])
    count = int(wrong.sum())
    return (
        f"{count} of {found.numel()} differ; at {at}: {found[at].item()!r} instead of {wanted[at].item()!r}"
    )


def sample(units: list[Unit], cases: int, seed: int) -> list[Unit]:
    """Units with at least ``cases`` cases together, or all of them; the same for the same seed."""
    shuffled = sorted(units, key=lambda u: u.name)
    random.Random(seed).shuffle(shuffled)
    chosen: list[Unit] = []
    for unit in shuffled:
        if sum(u.cases for u in chosen) >= cases:
            break
        chosen.append(unit)
    return chosen
