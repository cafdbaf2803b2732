"""Matrix products: GEMV with bfloat16 and int8 weights, flat and square GEMM."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.nn.functional import linear

from benchmarks import cpu_kernels
from benchmarks.common import BEYOND_CACHES, cycling, rotated
from benchmarks.cpu_engine.cells import Cell, Limit, Step, candidates
from benchmarks.cpu_engine.machine import peak
from benchmarks.cpu_engine.reading import Operands, read_limit
from headrace.codegen.cpu.direct import compile_direct
from headrace.ir.spec import Spec, parse_spec

OF_FLOOR, FLAT, SQUARE_F32, SQUARE_BF16, OF_PEAK = 0.95, 1.3, 0.9, 1.5, 0.5
FLAT_ROWS = (8, 16, 32)
FLAT_WEIGHTS = ((4096, 4096), (12288, 4096), (11008, 4096), (4096, 11008))
SQUARE = 4096


def gemv() -> Iterator[Callable[[], Cell]]:
    for residency in ("in place", "rotated"):
        yield lambda residency=residency: _gemv_bf16(residency)
        yield lambda residency=residency: _gemv_int8(residency)


def flat() -> Iterator[Callable[[], Cell]]:
    for n, k in FLAT_WEIGHTS:
        for m in FLAT_ROWS:
            yield lambda m=m, n=n, k=k: _flat(m, n, k)


def gemm() -> Iterator[Callable[[], Cell]]:
    for dtype in (torch.float32, torch.bfloat16):
        for layout in ("nk", "kn"):
            yield lambda dtype=dtype, layout=layout: _square(dtype, layout)


def product(m: int, n: int, k: int, dtype: str = "bf16", layout: str = "nk") -> Spec:
    """y[m, n] = x[m, k] w, with the weights stored as the layout says."""
    return parse_spec(
        f"Gemm{{x={dtype}; weights=[w0:{dtype}[{n},{k}]{layout}]; extras=[]; outputs=[{dtype} = acc_w0]; "
        "batched=false}"
    )


def _operands(make: Callable[[], Operands], residency: str) -> list[Operands]:
    return [make()] if residency == "in place" else rotated(make, BEYOND_CACHES)


def _gemv_bf16(residency: str, n: int = 4096, k: int = 4096) -> Cell:
    operands = _operands(
        lambda: (torch.randn(1, k).bfloat16(), torch.randn(n, k, dtype=torch.bfloat16)), residency
    )
    made = cycling(operands)
    return Cell(
        f"gemv bf16 {n}x{k} {residency}",
        candidates(product(1, n, k), (1,), made),
        {"F.linear": made(lambda t: linear(t[0], t[1]))},
        read_limit(operands, lambda t: [t[1]], made),
        of_limit=OF_FLOOR,
    )


def _gemv_int8(residency: str, n: int = 4096, k: int = 4096) -> Cell:
    def make() -> Operands:
        return (
            torch.randn(1, k).bfloat16(),
            torch.randint(-127, 128, (n, k), dtype=torch.int8),
            torch.rand(n).bfloat16(),
            torch.empty(1, n, dtype=torch.bfloat16),
        )

    operands = _operands(make, residency)
    made = cycling(operands)
    # A Triton kernel is given the tensor that it writes.
    places = {id(each): tuple(t.data_ptr() for t in each) for each in operands}
    signature = {"X": "*bf16", "W": "*i8", "SCALES": "*bf16", "Y": "*bf16"}
    ours: dict[str, Step] = {}
    for block_n, block_k in ((128, 128), (64, 64), (256, 128), (512, 128)):
        kernel = compile_direct(
            cpu_kernels.gemv_int8, signature, {"K": k, "BLOCK_N": block_n, "BLOCK_K": block_k}
        )

        def call(
            t: Operands, launch: Callable[..., None] = kernel.launch, blocks: int = n // block_n
        ) -> object:
            return launch(blocks, 1, 1, *places[id(t)])

        ours[f"{block_n}x{block_k}"] = made(call)
    return Cell(
        f"gemv int8 {n}x{k} {residency}",
        ours,
        {"int8pack_mm": made(lambda t: torch._weight_int8pack_mm(*t[:3]))},
        read_limit(operands, lambda t: [t[1]], made),
        of_limit=OF_FLOOR,
    )


def _flat(m: int, n: int, k: int) -> Cell:
    operands = rotated(lambda: (torch.randn(m, k).bfloat16(), torch.randn(n, k, dtype=torch.bfloat16)))
    made = cycling(operands)
    return Cell(
        f"flat bf16 M={m} [{n},{k}]",
        candidates(product(m, n, k), (m,), made, prefer="flat"),
        {"F.linear": made(lambda t: linear(t[0], t[1]))},
        read_limit(operands, lambda t: [t[1]], made),
        over={"F.linear": FLAT},
    )


def _square(dtype: torch.dtype, layout: str) -> Cell:
    size = SQUARE
    name = "bf16" if dtype is torch.bfloat16 else "f32"
    x, w = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    operands = [(x, w)]
    made = cycling(operands)
    most = peak(dtype)
    peer = "F.linear" if layout == "nk" else "torch.mm"
    call = (lambda t: linear(t[0], t[1])) if layout == "nk" else (lambda t: torch.mm(t[0], t[1]))
    spec = product(size, size, size, name, layout)
    # A GEMV of this size takes minutes, and `flat` is `tiled` without its order of tiles.
    ours = {
        flow: step
        for flow, step in candidates(spec, (size,), made, prefer="tiled").items()
        if flow == "tiled"
    }
    return Cell(
        f"gemm {name} {size}^3 {layout}",
        ours,
        {peer: made(call)},
        Limit(f"{most.instruction} peak", {"registers": most.step}, 2.0 * size**3 / most.operations),
        over={peer: SQUARE_BF16 if name == "bf16" else SQUARE_F32},
        of_limit=OF_PEAK if name == "bf16" else None,
    )
