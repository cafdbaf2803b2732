"""Reference lowering of TTIR: every operation becomes loops over buffers in memory, one element at a time.

It is slow on purpose and obviously right: the oracle that the vector lowering is compared with, and what runs
when that one declines a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.reference.control import PROGRAM, FunctionLowering
from headrace.codegen.cpu.reference.emitter import Emitter
from headrace.codegen.cpu.target import CpuTarget
from headrace.codegen.cpu.ttir import Function, Module, Op, Value
from headrace.codegen.cpu.worker import ir_type, symbol_of


def lower(function: Function, module: Module, target: CpuTarget) -> str:
    """LLVM IR of ``void @NAME.program(args..., i32 pid_x, pid_y, pid_z, grid_x, grid_y, grid_z)`` and of what
    it needs.

    Raises:
        UnsupportedTtir: an operation that no rule covers, naming it and the kernel's source line.
    """
    unit = Unit(module)
    kernel = unit.kernel(function)
    return "\n".join([*unit.globals.values(), *unit.callees.values(), kernel]) + "\n"


class Unit:
    """One kernel with its callees. Each callee gets its frame size before its caller is finished.

    ``prefix`` goes before the names of callees.
    """

    def __init__(self, module: Module, globals_: dict[str, str] | None = None, prefix: str = "") -> None:
        self.module = module
        self.prefix = prefix
        self.globals: dict[str, str] = {} if globals_ is None else globals_
        self.callees: dict[str, str] = {}
        self.frames: dict[str, int] = {}
        self.open: list[str] = []

    def kernel(self, function: Function) -> str:
        e = Emitter(self.globals)
        params = []
        for k, arg in enumerate(function.args):
            kind = ir_type(arg.type)
            params.append(f"{kind} %arg{k}")
            e.write(arg, f"%arg{k}")
        below = self.body(e, function, [])
        frame = e.frame + below
        opening = []
        if frame:
            e.declare("ptr", "headrace_scratch", "i64")
            opening = [
                f"  %frame = call ptr @headrace_scratch(i64 {frame})",
                f"  %callee_frame = getelementptr i8, ptr %frame, i64 {e.frame}",
            ]
        else:
            opening = ["  %callee_frame = getelementptr i8, ptr null, i64 0"]
        return _define(symbol_of(function.name), params, opening, e)

    def outlined(self, op: Op, operands: Sequence[Value], name: str) -> tuple[str, int]:
        """One operation as ``void @NAME(ptr operands..., ptr results..., ptr frame, i32 program...)``.

        ``operands`` are the places that it reads, row-major, values used by its regions included. Returns
        the text and the bytes of scratch memory that it needs at ``frame``.
        """
        e = Emitter(self.globals)
        params = []
        for kind, values in (("operand", operands), ("result", op.results)):
            for k, value in enumerate(values):
                params.append(f"ptr %{kind}{k}")
                e.bind(value, f"%{kind}{k}")
        below = 0

        def callee(called: str) -> str:
            nonlocal below
            symbol = self.callee(called)
            below = max(below, self.frames[called])
            return symbol

        FunctionLowering(e, self.module.kernel, self.module, callee).operation(op)
        e.line("ret void")
        opening = [f"  %callee_frame = getelementptr i8, ptr %frame, i64 {e.frame}"]
        return _define(name, [*params, "ptr %frame"], opening, e), e.frame + below

    def body(self, e: Emitter, function: Function, results: list[str]) -> int:
        """Lower the body; returns the largest frame of a callee."""
        below = 0

        def callee(name: str) -> str:
            nonlocal below
            symbol = self.callee(name)
            below = max(below, self.frames[name])
            return symbol

        lowering = FunctionLowering(e, function, self.module, callee)
        lowering.result_places = results
        lowering.run()
        return below

    def callee(self, name: str) -> str:
        symbol = f'@"{self.prefix}{name}"'
        if name in self.open:
            raise ttir.unsupported("tt.call", f"{name} calls itself; recursion is not supported")
        if name in self.frames:
            return symbol
        function = self.module.function(name)
        e = Emitter(self.globals)
        params = []
        for k, arg in enumerate(function.args):
            params.append(f"ptr %arg{k}")
            e.bind(arg, f"%arg{k}")
        results = [f"%result{k}" for k in range(len(function.result_types))]
        self.open.append(name)
        below = self.body(e, function, results)
        self.open.pop()
        self.frames[name] = e.frame + below
        opening = [f"  %callee_frame = getelementptr i8, ptr %frame, i64 {e.frame}"]
        self.callees[name] = _define(
            self.prefix + name, [*params, *(f"ptr {r}" for r in results), "ptr %frame"], opening, e
        )
        return symbol


def _define(name: str, params: list[str], opening: list[str], e: Emitter) -> str:
    program = [f"i32 %{p}" for p in PROGRAM]
    head = f'define internal void @"{name}"({", ".join([*params, *program])}) {{'
    return "\n".join([head, "entry:", *opening, *e.entry, *e.body, "}"])
