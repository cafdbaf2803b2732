"""Operations whose printed form is their own: constants, control flow, and ``tt.dot_scaled``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.parse_text import number, packed
from headrace.codegen.cpu.ttir import Block, Op, Successor, Type, Value

if TYPE_CHECKING:
    from headrace.codegen.cpu.parse import Parser


def constant(p: Parser, op: Op) -> None:
    if p.accept("{"):
        op.attrs.update(p.attr_dict())
    tok = p.toks[p.i]
    raw: list[str] = []
    if tok == "dense":
        p.i += 1
        p.expect("<")
        while not p.accept(">"):
            if p.kinds[p.i] in ("number", "string") or p.toks[p.i] in ("true", "false"):
                raw.append(p.toks[p.i])
            p.i += 1
    else:
        raw.append(tok)
        p.i += 1
    if p.accept(":"):
        type_ = p.type()
    elif tok in ("true", "false"):
        type_ = ttir.I1
    else:
        raise p.fail(f"constant {tok!r} has no type")
    if raw and raw[0].startswith('"'):
        values = packed(raw[0].strip('"'), type_)
    else:
        values = tuple(number(r, type_) for r in raw)
    op.attrs["value"] = values[0] if len(values) == 1 else values
    op.results = [p.new(type_)]


def scf_for(p: Parser, op: Op) -> None:
    op.attrs["unsigned"] = p.accept("unsigned")
    iv_name = p.take("value")
    p.expect("=")
    op.operands.append(p.operand())
    p.expect("to")
    op.operands.append(p.operand())
    p.expect("step")
    op.operands.append(p.operand())
    names: list[str] = []
    types: list[Type] = []
    if p.accept("iter_args"):
        names = bindings(p, op)
        p.expect("->")
        types = p.type_or_types()
    iv_type = p.type() if p.accept(":") else ttir.ScalarType("index")
    args = [(iv_name, p.new(iv_type)), *((n, p.new(t)) for n, t in zip(names, types, strict=True))]
    p.expect("{")
    op.regions = [p.region(args)]
    if p.accept("{"):
        op.attrs.update(p.attr_dict())
    op.results = [p.new(t) for t in types]


def bindings(p: Parser, op: Op) -> list[str]:
    """``(%a = %x, %b = %y)``: names; the initial values are appended to the operands."""
    names: list[str] = []
    p.expect("(")
    while not p.accept(")"):
        names.append(p.take("value"))
        p.expect("=")
        op.operands.append(p.operand())
        p.accept(",")
    return names


def scf_if(p: Parser, op: Op) -> None:
    op.operands = [p.operand()]
    types = p.type_or_types() if p.accept("->") else []
    p.expect("{")
    op.regions = [p.region()]
    if p.accept("else"):
        p.expect("{")
        op.regions.append(p.region())
    if p.accept("{"):
        op.attrs.update(p.attr_dict())
    op.results = [p.new(t) for t in types]


def scf_while(p: Parser, op: Op) -> None:
    names = bindings(p, op) if p.peek("(") else []
    p.expect(":")
    inputs = p.type_or_types()
    p.expect("->")
    results = p.type_or_types()
    p.expect("{")
    before = p.region([(n, p.new(t)) for n, t in zip(names, inputs, strict=True)])
    p.expect("do")
    p.expect("{")
    op.regions = [before, p.region()]
    if p.accept("attributes"):
        p.expect("{")
        op.attrs.update(p.attr_dict())
    op.results = [p.new(t) for t in results]


def scf_condition(p: Parser, op: Op) -> None:
    p.expect("(")
    op.operands = p.operands(")")
    while p.kinds[p.i] == "value":
        op.operands.append(p.operand())
        p.accept(",")
    p.signature()


def successor(p: Parser, op: Op) -> None:
    block = p.block_names.setdefault(p.take("block"), Block())
    values: list[Value] = []
    if p.accept("("):
        while not p.accept(")"):
            if p.accept(":"):
                p.types(")")
                break
            values.append(p.operand())
            p.accept(",")
    op.successors.append(Successor(block, values))


def branch(p: Parser, op: Op) -> None:
    if op.name == "cf.cond_br":
        op.operands = [p.operand()]
        if p.accept("weights"):
            while not p.accept(")"):
                p.i += 1
        p.expect(",")
    successor(p, op)
    if p.accept(","):
        successor(p, op)
    if p.accept("{"):
        op.attrs.update(p.attr_dict())


def dot_scaled(p: Parser, op: Op) -> None:
    scales: list[Value | None] = []
    tensors: list[Value] = []
    for _ in range(2):
        tensors.append(p.operand())
        scales.append(p.operand() if p.accept("scale") else None)
        p.expect(",")
    tensors.append(p.operand())
    op.operands = tensors + [s for s in scales if s is not None]
    op.attrs["operandSegmentSizes"] = (1, 1, 1, *(0 if s is None else 1 for s in scales))
    while p.kinds[p.i] == "word" and p.toks[p.i + 1] == "=":
        name = p.toks[p.i]
        p.i += 2
        op.attrs[name] = p.attr()
    if p.accept("{"):
        op.attrs.update(p.attr_dict())
    _, results = p.signature()
    op.results = [p.new(t) for t in results or ()]


def unknown(p: Parser, op: Op) -> None:
    """Control flow of MLIR that Triton's frontend and passes do not produce."""
    raise p.fail("Triton does not produce this operation; use if, for and while")


FORMS: dict[str, Callable[[Parser, Op], None]] = {
    "arith.constant": constant,
    "scf.for": scf_for,
    "scf.if": scf_if,
    "scf.while": scf_while,
    "scf.condition": scf_condition,
    "cf.br": branch,
    "cf.cond_br": branch,
    "cf.switch": unknown,
    "scf.execute_region": unknown,
    "scf.forall": unknown,
    "scf.index_switch": unknown,
    "scf.parallel": unknown,
    "tt.dot_scaled": dot_scaled,
}
