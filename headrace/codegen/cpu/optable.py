"""``python -m headrace.codegen.cpu.optable``: the table of TTIR's operations in ``docs/triton-ops.md``.

Nothing in the table is written by hand but the samples: each is lowered by the scalar reference and by the
vector engine for AVX-512, and what they say is the entry.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from dataclasses import dataclass

from headrace.codegen.cpu.lower import Engine, lower
from headrace.codegen.cpu.opsamples import Sample, samples
from headrace.codegen.cpu.parse import parse
from headrace.codegen.cpu.target import CpuTarget
from headrace.errors import UnsupportedTtir

PAGE = pathlib.Path("docs") / "triton-ops.md"
_ORDERS = ("GE", "GT", "LE", "LT")
# The builder's methods by which Triton's frontend makes operations; a test compares them with the
# installed Triton's.
BUILDER = {
    "add": "arith.addi", "addptr": "tt.addptr", "and": "arith.andi", "approx_divf": "tt.approx_divf",
    "ashr": "arith.shrsi", "assert": "tt.assert", "assume": "llvm.intr.assume", "atomic_cas": "tt.atomic_cas",
    "atomic_load": "tt.atomic_load", "atomic_poll": "tt.atomic_poll", "atomic_rmw": "tt.atomic_rmw",
    "atomic_store": "tt.atomic_store", "barrier": "gpu.barrier", "bitcast": "tt.bitcast", "branch": "cf.br",
    "broadcast": "tt.broadcast", "cat": "tt.cat", "ceil": "math.ceil", "clampf": "tt.clampf",
    "cond_branch": "cf.cond_br", "condition_op": "scf.while", "cos": "math.cos",
    "descriptor_gather": "tt.descriptor_gather", "descriptor_load": "tt.descriptor_load",
    "descriptor_reduce": "tt.descriptor_reduce", "descriptor_scatter": "tt.descriptor_scatter",
    "descriptor_store": "tt.descriptor_store", "dot": "tt.dot", "dot_scaled": "tt.dot_scaled",
    "erf": "math.erf",
    "exp": "math.exp", "exp2": "math.exp2", "expand_dims": "tt.expand_dims",
    "extern_elementwise": "tt.extern_elementwise", "fabs": "math.absf", "fadd": "arith.addf",
    "fdiv": "arith.divf",
    "floor": "math.floor", "fma": "math.fma", "fmul": "arith.mulf", "fneg": "arith.negf", "for_op": "scf.for",
    "fp_ext": "arith.extf", "fp_to_fp": "tt.fp_to_fp", "fp_to_si": "arith.fptosi", "fp_to_ui": "arith.fptoui",
    "fp_trunc": "arith.truncf", "frem": "arith.remf", "fsub": "arith.subf", "gather": "tt.gather",
    "get_num_programs": "tt.get_num_programs", "get_program_id": "tt.get_program_id",
    "grid_dependency_launch_dependents": "tt.grid_dependency_launch_dependents",
    "grid_dependency_wait": "tt.grid_dependency_wait", "histogram": "tt.histogram", "iabs": "math.absi",
    "if_op": "scf.if", "inline_asm": "tt.elementwise_inline_asm", "int_cast": "arith.extsi",
    "int_to_ptr": "tt.int_to_ptr", "join": "tt.join", "load": "tt.load", "log": "math.log",
    "log2": "math.log2",
    "lshr": "arith.shrui", "make_range": "tt.make_range",
    "make_tensor_descriptor": "tt.make_tensor_descriptor",
    "map_elementwise": "tt.map_elementwise", "map_elementwise_ret": "tt.map_elementwise",
    "masked_load": "tt.load", "masked_store": "tt.store", "maximumf": "arith.maximumf",
    "maxnumf": "arith.maxnumf", "maxsi": "arith.maxsi", "maxui": "arith.maxui", "minimumf": "arith.minimumf",
    "minnumf": "arith.minnumf", "minsi": "arith.minsi", "minui": "arith.minui", "mul": "arith.muli",
    "or": "arith.ori", "poison": "ub.poison", "precise_divf": "tt.precise_divf",
    "precise_sqrt": "tt.precise_sqrt", "print": "tt.print", "ptr_to_int": "tt.ptr_to_int",
    "reduce": "tt.reduce", "reduce_ret": "tt.reduce", "reshape": "tt.reshape", "rsqrt": "math.rsqrt",
    "scan": "tt.scan", "scan_ret": "tt.scan", "sdiv": "arith.divsi", "select": "arith.select",
    "shl": "arith.shli", "si_to_fp": "arith.sitofp", "sin": "math.sin", "splat": "tt.splat",
    "split": "tt.split",
    "sqrt": "math.sqrt", "srem": "arith.remsi", "store": "tt.store", "sub": "arith.subi", "trans": "tt.trans",
    "udiv": "arith.divui", "ui_to_fp": "arith.uitofp", "umulhi": "tt.mulhiui", "unsplat": "tt.unsplat",
    "urem": "arith.remui", "while_op": "scf.while", "xor": "arith.xori", "yield_op": "scf.for",
    **{f"icmp{p}": "arith.cmpi" for p in ("EQ", "NE", *(s + c for s in "SU" for c in _ORDERS))},
    **{f"fcmp{p}": "arith.cmpf" for p in (s + c for s in "OU" for c in ("EQ", "NE", *_ORDERS))},
}  # fmt: skip
# By the builder's get_ methods, call, and casts of integers in either direction.
ALSO = frozenset({"arith.constant", "arith.extui", "arith.trunci", "tt.call"})
# Methods that make no operation of a kernel.
NOT_OPERATIONS = frozenset(
    {"block", "block_with_parent", "loc", "module", "name_loc", "tensor_descriptor_type"}
)


@dataclass(frozen=True)
class Entry:
    """What the two lowerings say of one sample: empty if they take it, else the reason.

    ``outlined``: the vector engine calls the operation in its reference form.
    """

    sample: Sample
    reference: str
    vector: str
    outlined: bool


# Nothing is run to make the table, so it is the same on every machine.
_AVX512 = CpuTarget(
    "x86_64-unknown-linux-gnu",
    frozenset({"avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"}),
)
_ENGINES: tuple[Engine, ...] = ("reference", "vector")


def entry(sample: Sample) -> Entry:
    """Lower a sample both ways."""
    reasons, outlined = ["", ""], False
    for k, engine in enumerate(_ENGINES):
        try:
            made = lower(parse(sample.text), _AVX512, engine)
        except UnsupportedTtir as error:
            reasons[k] = str(error)
        else:
            outlined = sample.op in made.outlined
    return Entry(sample, reasons[0], reasons[1], outlined)


def _types(entries: Iterable[Entry]) -> str:
    return ", ".join(dict.fromkeys(e.sample.element.lower() for e in entries if e.sample.element))


def _row(op: str, entries: list[Entry], emitted: frozenset[str]) -> str:
    """One line: where the operation comes from, what the reference says, how the vector engine does it."""
    taken = [e for e in entries if not e.reference]
    refused = [e for e in entries if e.reference]
    native = [e for e in taken if not e.vector and not e.outlined]
    island = [e for e in taken if not e.vector and e.outlined]
    declined = [e for e in taken if e.vector]
    parts = []
    for word, found in (("vector", native), ("called", island), ("declined", declined)):
        if found:
            several = len(found) < len(taken)
            parts.append(f"{word}: {_types(found)}" if several else word)
    reason = refused[0].reference.split(": ", 1)[-1] if refused else ""
    support = "refused" if not taken else "yes, but " + _types(refused) if refused else "yes"
    cells = [
        f"`{op}`",
        "yes" if op in emitted else "",
        support + (f": {reason}" if reason else ""),
        "; ".join(parts) or "refused",
        _types(taken),
    ]
    return "| " + " | ".join(cells) + " |"


def page() -> str:
    """The whole document."""
    entries: dict[str, list[Entry]] = {}
    for sample in samples():
        entries.setdefault(sample.op, []).append(entry(sample))
    emitted = frozenset(BUILDER.values()) | ALSO
    rows = [_row(op, entries[op], emitted) for op in sorted(entries)]
    supported = sum(any(not e.reference for e in found) for found in entries.values())
    refused = len(entries) - supported
    return f"""# Operations of Triton's IR on the CPU

Made by `python -m headrace.codegen.cpu.optable` from the code, for processors with AVX-512. A test compares
the two, runs every supported entry through both lowerings, and checks that every refused one raises
`UnsupportedTtir` with its name and source line. {supported} operations are supported, {refused} refused.

*Frontend*: Triton's frontend emits it; the others come from passes over its output. *Reference*: the scalar
lowering, the oracle of all tests. *Vector*: how the fast lowering does it: in vector code of its own
("vector"), or by calling the operation's reference form ("called"; the rest of the kernel stays vectorised).
*Types*: of the elements; `a->b` where they change.

Tensor descriptors, made on the host or the device, are supported: Triton's own pass turns their operations
into pointers before the engine sees them, and only what that pass leaves is refused. All functions of
`triton.language.extra.libdevice` are `tt.extern_elementwise`. Gluon kernels name GPU layouts and are refused
as a whole.

| Operation | Frontend | Reference | Vector | Types |
|---|---|---|---|---|
{chr(10).join(rows)}
"""


if __name__ == "__main__":
    PAGE.write_text(page())
