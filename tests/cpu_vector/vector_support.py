"""Compile once, call with tensors; guard pages; error measures."""

from __future__ import annotations

import ctypes
import mmap
from functools import cache

import torch
import triton  # noqa: F401  (the backend package must not be the first to be imported)

from headrace import settings
from headrace.codegen.cpu.direct import DirectKernel, compile_direct

TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float64: "*fp64",
    torch.int8: "*i8",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
    torch.uint16: "*u16",
    torch.uint32: "*u32",
    torch.bool: "*i1",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.float8_e5m2: "*fp8e5",
    torch.float8_e4m3fnuz: "*fp8e4b8",
    torch.float8_e5m2fnuz: "*fp8e5b16",
}


@cache
def _compiled(fn, signature, constants, engine: str, level: str) -> DirectKernel:
    return compile_direct(fn, dict(signature), dict(constants), options={"engine": engine})


def run(fn, grid, *args, engine: str = "vector", **constants) -> DirectKernel:
    """Launch ``fn`` on the vector engine (it must not decline)."""
    names = [n for n in fn.arg_names if n not in constants]
    kinds = []
    for name, value in zip(names, args, strict=True):
        if isinstance(value, torch.Tensor):
            kinds.append((name, TYPES[value.dtype]))
        else:
            kinds.append((name, "fp32" if isinstance(value, float) else "i32"))
    kernel = _compiled(fn, tuple(kinds), tuple(constants.items()), engine, settings.cpu_features())
    assert kernel.engine == engine
    kernel(*(*grid, 1, 1)[:3], *args)
    return kernel


def worst(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest error relative to the largest expected value; NaN and infinities must agree."""
    a, e = actual.double(), expected.double()
    assert torch.equal(a.isnan(), e.isnan())
    assert torch.equal(a.isinf(), e.isinf())
    keep = e.isfinite()
    if not keep.any():
        return 0.0
    assert torch.equal(a[a.isinf()], e[e.isinf()])
    return float((a[keep] - e[keep]).abs().max() / (e[keep].abs().max() + 1e-30))


def ulps(actual: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest error in units of the last place of f32."""
    e = exact.double()
    near = e.abs().clamp(min=2.0**-126).log2().floor()
    return float(((actual.double() - e).abs() / torch.exp2(near - 23)).max())


class Guarded:
    """A tensor that ends exactly where unreadable memory begins, and starts right after such memory."""

    def __init__(self, count: int, dtype: torch.dtype, at_end: bool) -> None:
        size = count * torch.empty((), dtype=dtype).element_size()
        page = mmap.PAGESIZE
        inner = -(-max(size, 1) // page) * page
        self.memory = mmap.mmap(-1, inner + 2 * page)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        libc = ctypes.CDLL(None, use_errno=True)
        for start in (base, base + page + inner):
            assert libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(page), 0) == 0
        offset = page + (inner - size if at_end else 0)
        self.tensor = torch.frombuffer(self.memory, dtype=dtype, count=count, offset=offset)
        self._release = lambda: [
            libc.mprotect(ctypes.c_void_p(s), ctypes.c_size_t(page), 3) for s in (base, base + page + inner)
        ]

    def __enter__(self) -> torch.Tensor:
        return self.tensor

    def __exit__(self, *_: object) -> None:
        self._release()


def against_reference(fn, grid, *args, tol: float = 0.0, **constants) -> DirectKernel:
    """Launch ``fn`` on both engines with equal arguments; every tensor must come out alike. Returns the
    vector kernel; ``args`` hold its results."""
    copies = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
    kernel = run(fn, grid, *args, **constants)
    run(fn, grid, *copies, engine="reference", **constants)
    for a, b in zip(args, copies, strict=True):
        if isinstance(a, torch.Tensor):
            if tol and a.is_floating_point():
                torch.testing.assert_close(a, b, rtol=tol, atol=tol, equal_nan=True)
            else:
                assert torch.equal(a.isnan(), b.isnan())
                assert torch.equal(a[~a.isnan()], b[~b.isnan()]), (a, b)
    return kernel


def ttir_of(fn, signature: dict[str, str], constants: dict[str, object]) -> str:
    """Text of a kernel's TTIR, as the engine gets it."""
    from triton._C.libtriton import ir
    from triton.compiler import ASTSource

    from headrace.codegen.cpu import pipeline
    from headrace.codegen.cpu.backend import compiler, options
    from headrace.codegen.cpu.direct import gpu_target

    backend = compiler.CpuBackend(gpu_target())
    context = ir.context()
    ir.load_dialects(context)
    parsed = options.parse({}, backend.arch)
    full = {n: signature.get(n, "constexpr") for n in fn.arg_names}
    module = ASTSource(fn, full, constants).make_ir(
        backend.target, parsed, backend.get_codegen_implementation(parsed), backend.get_module_map(), context
    )
    module.context = context
    return str(pipeline.make_ttir(module, {}))
