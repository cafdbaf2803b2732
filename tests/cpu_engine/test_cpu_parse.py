"""The parser, against stored TTIR and against what the installed Triton prints today.

Goldens are kept per version of Triton in ``goldens/``. To write those of the installed one:
``python test_cpu_parse.py``, then read the difference.
"""

from __future__ import annotations

import pathlib
import tempfile

import pytest
import triton
from cpu_case import Case
from cpu_cases import BY_NAME
from cpu_golden_kernels import KERNELS

from headrace.codegen.cpu import pipeline, ttir
from headrace.codegen.cpu.backend import compiler, options
from headrace.codegen.cpu.direct import gpu_target
from headrace.codegen.cpu.opsamples import samples
from headrace.codegen.cpu.parse import parse
from headrace.codegen.cpu.parse_text import parse_type
from headrace.errors import UnsupportedTtir

GOLDENS = pathlib.Path(__file__).parent / "goldens"
INSTALLED = GOLDENS / ".".join(triton.__version__.split(".")[:2])
NAMES = [
    "int_math",
    "flash_f16_causal",
    "reductions",
    "linear_recurrence",
    "atomics",
    "exchange",
    "shuffles",
    "branches_and_early_return",
    "while_loop",
    "fibonacci",
    "calls",
    "nan_rules",
    "booleans",
    "int8_dot",
]


def compiled(case: Case):
    """Triton's module for a case, after the engine's TTIR stage."""
    return compiled_kernel(case.kernel, case.signature(), case.meta)


def golden_module(name: str):
    """Triton's module for a golden: a differential case, or a kernel written for its printed forms."""
    return compiled_kernel(*KERNELS[name]) if name in KERNELS else compiled(BY_NAME[name])


def compiled_kernel(kernel, given: dict[str, str], constants: dict[str, object]):
    from triton._C.libtriton import ir
    from triton.compiler import ASTSource

    signature = {n: given.get(n, "constexpr") for n in kernel.arg_names}
    backend = compiler.CpuBackend(gpu_target())
    context = ir.context()
    ir.load_dialects(context)
    asked = {"debug": True, "sanitize_overflow": False}  # so that the kernel's own assertions are printed
    parsed = options.parse(asked, backend.arch)
    module = ASTSource(kernel, signature, dict(constants)).make_ir(
        backend.target, parsed, backend.get_codegen_implementation(parsed), backend.get_module_map(), context
    )
    module.context = context
    return pipeline.make_ttir(module, {})


def dump(module: ttir.Module) -> str:
    """Every field of every operation, one a line; values are numbered as they appear."""
    lines: list[str] = []
    numbers: dict[ttir.Value, int] = {}
    blocks: dict[ttir.Block, int] = {}

    def name(value: ttir.Value) -> str:
        return f"%{numbers.setdefault(value, len(numbers))}:{value.type}"

    def block(b: ttir.Block, indent: int) -> None:
        label = blocks.setdefault(b, len(blocks))
        lines.append(f"{' ' * indent}block {label}({', '.join(map(name, b.args))})")
        for op in b.ops:
            attrs = "".join(f" {k}={v!r}" for k, v in sorted(op.attrs.items()))
            goes = "".join(
                f" -> {blocks.setdefault(s.block, len(blocks))}({', '.join(map(name, s.operands))})"
                for s in op.successors
            )
            results = ", ".join(map(name, op.results))
            lines.append(
                f"{' ' * indent}  [{results}] = {op.name}({', '.join(map(name, op.operands))}){attrs}{goes}"
            )
            for region in op.regions:
                block(region, indent + 4)

    for f in module.functions:
        lines.append(
            f"func {f.name} public={f.public} results={[str(t) for t in f.result_types]} attrs={f.arg_attrs}"
        )
        for b in f.blocks:
            block(b, 2)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", sorted(GOLDENS.glob("*/*.ttir")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_stored_text_parses_to_the_stored_structure(path: pathlib.Path) -> None:
    assert dump(parse(path.read_text())) == path.with_suffix(".txt").read_text()


@pytest.mark.parametrize("name", [*NAMES, *KERNELS])
def test_the_installed_triton_prints_what_is_stored(name: str) -> None:
    module = golden_module(name)
    expected = (INSTALLED / f"{name}.txt").read_text()
    assert dump(parse(module.str_nodebug())) == expected
    assert dump(parse(str(module))) == expected


def printed_samples() -> dict[str, str]:
    """One sample of every operation that is not refused by the parser, as the installed Triton prints it."""
    from triton._C.libtriton import ir

    context = ir.context()
    ir.load_dialects(context)
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "sample.mlir"
        for sample in samples():
            if sample.op not in found and "tensordesc" not in sample.text:
                path.write_text(sample.text)
                found[sample.op] = ir.parse_mlir_module(str(path), context).str_nodebug()
    return found


def dump_samples(texts: dict[str, str]) -> str:
    """The line of the operation itself: the rest of a sample is the same everywhere."""
    found = []
    for op, text in sorted(texts.items()):
        found += [line.strip() for line in dump(parse(text)).splitlines() if f"] = {op}(" in line]
    return "\n".join(found) + "\n"


def test_every_operation_parses_as_stored_in_the_form_that_the_installed_triton_prints() -> None:
    assert dump_samples(printed_samples()) == (INSTALLED / "operations").read_text()


def test_locations_name_the_kernel_line_through_inlined_functions() -> None:
    case = BY_NAME["softmax"]
    module = parse(str(compiled(case)))
    (maximum,) = [op for op in ttir.walk(module) if op.name == "arith.maxnumf"]
    assert maximum.loc is not None
    assert maximum.loc.file.endswith("standard.py")
    source = pathlib.Path(maximum.loc.kernel.file).read_text().splitlines()
    assert "tl.max(v, 0)" in source[maximum.loc.kernel.line - 1]


@pytest.mark.parametrize(
    ("literal", "type_", "value"),
    [
        ("true", None, True),
        ("-7", "i32", -7),
        ("dense<-1>", "tensor<4xi8>", -1),
        ("dense<[1, 2, -3]>", "tensor<3xi32>", (1, 2, -3)),
        ("0xFF800000", "f32", float("-inf")),
        ("0x7C00", "f16", float("inf")),
        ("0xFF80", "bf16", float("-inf")),
        ("1.000000e+00", "f64", 1.0),
        ("dense<4.6566126E-10>", "tensor<2xf32>", 4.6566126e-10),
        ("dense<true>", "tensor<2xi1>", True),
    ],
)
def test_constants(literal: str, type_: str | None, value: object) -> None:
    tail = f" : {type_}" if type_ else ""
    module = parse(
        f"module {{\n tt.func public @f() {{\n %c = arith.constant {literal}{tail}\n tt.return\n }}\n}}"
    )
    assert module.kernel.body.ops[0].attrs["value"] == value


def test_optional_operands_are_unambiguous() -> None:
    text = """module { tt.func public @f(%p: !tt.ptr<f32>, %m: i1, %o: f32) {
      %a = tt.load %p : !tt.ptr<f32>
      %b = tt.load %p, %m : !tt.ptr<f32>
      %c = tt.load %p, %m, %o {isVolatile = true} : !tt.ptr<f32>
      tt.store %p, %a, %m {cachePolicy = #tt.cache_policy<cache_modifier = cs>} : !tt.ptr<f32>
      tt.return } }"""
    ops = parse(text).kernel.body.ops
    assert [[op.segment(i) is not None for i in range(3)] for op in ops[:3]] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    assert ops[2].attrs["isVolatile"] is True
    assert ops[3].segment(2) is ops[1].operands[1]
    assert ops[3].attrs["cachePolicy"] == {"cache_modifier": "cs"}


def test_scaled_dot_and_pointer_to_pointer() -> None:
    text = """module { tt.func public @f(%a: tensor<16x32xi8>, %s: tensor<16x1xi8>, %b: tensor<32x16xi8>,
                                          %c: tensor<16x16xf32>, %q: !tt.ptr<!tt.ptr<f16>>) {
      %d = tt.dot_scaled %a scale %s, %b, %c lhs = e4m3 rhs = e5m2 {fastMath = false} : tensor<16x32xi8>, tensor<16x1xi8> * tensor<32x16xi8> -> tensor<16x16xf32>
      %e = tt.load %q : !tt.ptr<!tt.ptr<f16>>
      tt.return } }"""  # noqa: E501
    dot, load = parse(text).kernel.body.ops[:2]
    assert dot.attrs["operandSegmentSizes"] == (1, 1, 1, 1, 0)
    assert (dot.attrs["lhs"], dot.attrs["rhs"]) == ("e4m3", "e5m2")
    assert str(load.result.type) == "ptr<f16>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("%x = made.up %a : i32", r"made\.up at TTIR line 2"),
        ("%x = arith.addi %a, %nope : i32", r"arith\.addi at TTIR line 2: %nope is used before"),
        ("%x = arith.addi %a, %a : vector<4xi32>", r"arith\.addi at TTIR line 2: type"),
        ("%x:2 = arith.addi %a, %a : i32", r"2 results are named but 1"),
        ("?? !!", r"line 2"),
    ],
)
def test_what_is_not_understood_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UnsupportedTtir, match=message):
        parse(f"module {{ tt.func public @f(%a: i32) {{\n{text}\n tt.return }} }}")


@pytest.mark.parametrize(
    "text", ["tensor<4x!foo>", "i", "tensor<2xtensor<2xi32>>", "!tt.ptr<tensor<2xi32>>", "loc"]
)
def test_other_types_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_type(text)


if __name__ == "__main__":
    INSTALLED.mkdir(parents=True, exist_ok=True)
    for golden in [*NAMES, *KERNELS]:
        printed = golden_module(golden).str_nodebug()
        (INSTALLED / f"{golden}.ttir").write_text(printed)
        (INSTALLED / f"{golden}.txt").write_text(dump(parse(printed)))
    (INSTALLED / "operations").write_text(dump_samples(printed_samples()))
