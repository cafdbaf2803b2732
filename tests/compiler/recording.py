"""The compiler without codegen: a trivial claim, and a resolver that remembers what it was asked for and runs
given functions as kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from headrace.compiler.decisions import Choice, Resolver
from headrace.ir.device import Backend, Device
from headrace.ir.dtype import DType
from headrace.ir.evidence import Rung
from headrace.ir.expr import Ref
from headrace.ir.graph import Graph
from headrace.ir.ops import Contract, Kernel
from headrace.ir.regime import Curve, Regime, RegimeTable, Voice
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Gemm, Output, Weight

F32 = DType.F32
SPEC = Gemm(F32, (Weight("w0", F32, 5, 4, "kn"),), (Output(F32, Ref("acc_w0")),))
TEXT = str(SPEC)
W = torch.arange(20.0).reshape(4, 5)
HOST = Device("a CPU", Backend.CPU, "x86_64", 1)
SMALL, LARGE = Schedule("small"), Schedule("large")
MEASURED = RegimeTable(
    TEXT, "here", (Regime(6, SMALL, (5, 7)), Regime(20, LARGE, (18, 22)), Regime(64, LIBRARY)),
    Voice.MEASURED, evidence=("r1", "r2"), curves=(Curve(SMALL, ((1, 1e-6), (6, 5e-6))),),
)  # fmt: skip


class ClaimProducts:
    """Every matrix product `mk,kn->mn` that is an FX value becomes a Gemm."""

    def run(self, graph: Graph) -> None:
        for node in list(graph):
            if isinstance(node.op, Contract) and node.fx is not None and node.type.rank == 2:
                x, w = graph.operands(node)
                n, k = int(node.type.shape[1]), int(x.type.shape[1])
                weight = Weight("w0", w.type.dtype, n, k, "kn")
                spec = Gemm(x.type.dtype, (weight,), (Output(node.type.dtype, Ref("acc_w0")),))
                graph.replace(node.name, graph.add(Kernel(spec), (x.name, w.name), node.type).name)
        graph.sweep()


def product(inputs: Any) -> torch.Tensor:
    return inputs[0] @ inputs[1]


def call(rows: int) -> torch.Tensor:
    x = torch.randn(rows, 4)
    result = torch.ops.headrace.run2x1(x, W, TEXT)
    torch.testing.assert_close(result, x @ W)
    return result


class Recording:
    """Chooses by size; a kernel of None does not build. `others` are what can take a kernel's place."""

    def __init__(
        self,
        kernels: dict[str, Callable[[Any], Any]],
        strict: bool = False,
        table: RegimeTable | Exception | None = None,
        others: Iterable[str] = (),
    ) -> None:
        self.kernels = {"library": product, **kernels}
        self.asked: list[tuple[int, ...]] = []
        self.built: list[str] = []
        self.table = table
        self.asked_for_tables = 0
        self.resolver = Resolver(
            self.choose,
            self.build,
            lambda tensor: HOST,
            strict=strict,
            regimes=self.regimes,
            others=lambda *_: [Choice(Schedule(name), Rung.MODEL, "next best") for name in others],
        )

    def regimes(self, spec: object, device: object) -> RegimeTable | None:
        self.asked_for_tables += 1
        if isinstance(self.table, Exception):
            raise self.table
        return self.table

    def choose(self, spec: object, sizes: tuple[int, ...], device: object) -> Choice:
        self.asked.append(sizes)
        dataflow = "small" if sizes[0] <= 4 else "large"
        return Choice(Schedule(dataflow), Rung.EXACT, f"database, {dataflow}", 1e-6, ("row",))

    def build(self, spec: object, schedule: Schedule, device: object) -> Callable[[Any], Any]:
        self.built.append(schedule.dataflow)
        kernel = self.kernels[schedule.dataflow]
        if kernel is None:
            raise RuntimeError("does not build")
        return kernel
