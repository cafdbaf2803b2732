"""The text form of a graph: one line per node, in topological order. Tests and goldens are written in it.

    x: bf16[4, 576] = input()  # fx=arg0_1
    t: bf16[576, 64] = view(w) {index=[d1, d0]}  # fx=permute @ llama/model.py:12 in forward
    y: bf16[4, 64] = contract(x, t) {equation=mk,kn->mn}
    return y
    replaced mm by y
    refused y: attention: the scores have a second reader

Attributes are those of the op's class, separated by `;`; the type of a tuple, or of what is no tensor, is
`_`. `parse_graph(print_graph(g))` prints and behaves like `g`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields

from headrace.errors import ExprSyntaxError, GraphSyntaxError, SpecSyntaxError, VerificationError
from headrace.ir import expr as scalar
from headrace.ir import size as sizes
from headrace.ir.graph import Graph, Node, Refusal
from headrace.ir.ops import (
    Contract,
    Extern,
    Gather,
    Input,
    Item,
    Kernel,
    Map,
    Op,
    Reduce,
    Scan,
    Scatter,
    Size,
    View,
)
from headrace.ir.spec import parse_spec
from headrace.ir.spec.operand import split, unlist
from headrace.ir.types import TensorType

OPS: Mapping[str, type[Op]] = {
    op.mnemonic: op
    for op in (Input, Size, View, Map, Reduce, Contract, Scan, Gather, Scatter, Extern, Kernel, Item)
}

_NAME = r"[A-Za-z_][\w.]*"
_LINE = re.compile(rf"({_NAME}): (_|\w+\[[^=]*\]) = ([a-z]+)\(([^()]*)\)(?: \{{(.*)\}})?")
_NOTE = re.compile(r"  # (?:fx=(\S+))?(?: ?@ (.*))?$")


def _bool(text: str) -> bool:
    return {"true": True, "false": False}[text]


def _target(text: str) -> str:
    return str(json.loads(text)) if text.startswith('"') else text


# (op, attribute) -> (print, parse)
_FORMS: Mapping[tuple[str, str], tuple[Callable[..., str], Callable[[str], object]]] = {
    ("size", "expr"): (sizes.text, sizes.parse),
    ("view", "index"): (
        lambda index: f"[{', '.join(map(sizes.text, index))}]",
        lambda text: tuple(map(sizes.parse, unlist(text))),
    ),
    ("map", "expr"): (str, scalar.parse),
    ("reduce", "kind"): (str, str),
    ("reduce", "axes"): (lambda axes: str(list(axes)), lambda text: tuple(map(int, unlist(text)))),
    ("contract", "equation"): (str, str),
    ("scan", "kind"): (str, str),
    ("scan", "axis"): (str, int),
    ("scan", "reverse"): (lambda flag: str(flag).lower(), _bool),
    ("gather", "axis"): (str, int),
    ("scatter", "axis"): (str, int),
    ("scatter", "accumulate"): (lambda flag: str(flag).lower(), _bool),
    ("extern", "target"): (
        lambda name: name if re.fullmatch(r"[\w.:]+", name) else json.dumps(name),
        _target,
    ),
    ("kernel", "spec"): (str, parse_spec),
    ("item", "at"): (str, int),
}


def print_op(op: Op) -> str:
    """`{axis=1; accumulate=false}`, or nothing for an op without attributes."""
    parts = [
        f"{field.name}={_FORMS[op.mnemonic, field.name][0](getattr(op, field.name))}" for field in fields(op)
    ]
    return f" {{{'; '.join(parts)}}}" if parts else ""


def print_node(node: Node, *, notes: bool = True) -> str:
    """The node's line; `notes` are the FX name and the source line."""
    type_text = "_" if node.type is None else str(node.type)
    line = f"{node.name}: {type_text} = {node.op.mnemonic}({', '.join(node.operands)}){print_op(node.op)}"
    if notes and (node.fx or node.source):
        parts = [f"fx={node.fx}"] if node.fx else []
        line += "  # " + " ".join([*parts, *([f"@ {node.source}"] if node.source else [])])
    return line


def print_graph(graph: Graph, *, notes: bool = True) -> str:
    """The graph's text; without `notes`, what only matters for emitting and diagnostics is left out."""
    lines = [print_node(node, notes=notes) for node in graph]
    lines.append(f"return {', '.join(graph.outputs)}".rstrip())
    if notes:
        lines += [f"replaced {fx} by {name}" for fx, name in graph.replaced.items()]
        lines += [f"refused {refusal}" for refusal in graph.refusals]
    return "\n".join(lines) + "\n"


def parse_graph(text: str) -> Graph:
    """The graph of a text. Blank lines and lines that start with `#` are skipped.

    Raises:
        GraphSyntaxError: a line cannot be read; the message gives its number and column.
    """
    graph = Graph()
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        try:
            _statement(graph, line)
        except (
            GraphSyntaxError,
            ExprSyntaxError,
            SpecSyntaxError,
            VerificationError,
            ValueError,
            KeyError,
        ) as error:
            column = len(raw) - len(raw.lstrip()) + 1
            raise GraphSyntaxError(f"line {number}, column {column}: {error} in {line[:120]!r}") from None
    return graph


def _statement(graph: Graph, line: str) -> None:
    if line == "return" or line.startswith("return "):
        graph.outputs = tuple(_existing(graph, split(line.removeprefix("return"), ",")))
    elif match := re.fullmatch(rf"replaced (\S+) by ({_NAME})", line):
        (graph.replaced[match[1]],) = _existing(graph, [match[2]])
    elif match := re.fullmatch(r"refused ([^:]+): ([^:]+): (.*)", line):
        graph.refusals.append(Refusal(match[1], match[2], match[3]))
    else:
        _node(graph, line)


def _existing(graph: Graph, names: Iterable[str]) -> list[str]:
    for name in names:
        if name not in graph:
            raise GraphSyntaxError(f"{name!r} is not defined before")
    return list(names)


def _node(graph: Graph, line: str) -> None:
    note = _NOTE.search(line)
    body = line[: note.start()] if note else line
    match = _LINE.fullmatch(body.rstrip())
    if match is None:
        raise GraphSyntaxError("expected `name: type = op(operands) {attribute=value; ...}`")
    name, type_text, mnemonic, operands, attributes = match.groups()
    if mnemonic not in OPS:
        raise GraphSyntaxError(f"{mnemonic!r} is no op; known: {', '.join(OPS)}")
    graph.add(
        parse_op(mnemonic, attributes or ""),
        _existing(graph, split(operands, ",")),
        None if type_text == "_" else TensorType.parse(type_text),
        name=name,
        fx=note[1] if note else None,
        source=(note[2] or "") if note else "",
    )


def parse_op(mnemonic: str, attributes: str) -> Op:
    """The op of a mnemonic and the text between its braces; attributes with a default may be left out."""
    given: dict[str, object] = {}
    for part in split(attributes, ";"):
        attribute, eq, value = part.partition("=")
        if not eq or (mnemonic, attribute) not in _FORMS or attribute in given:
            raise GraphSyntaxError(f"{mnemonic} has no attribute {attribute!r}, or it is given twice")
        given[attribute] = _FORMS[mnemonic, attribute][1](value)
    try:
        return OPS[mnemonic](**given)  # type: ignore[arg-type]  # each op's fields were parsed by their types
    except TypeError:
        wanted = ", ".join(field.name for field in fields(OPS[mnemonic]))
        raise GraphSyntaxError(f"{mnemonic} needs its attributes {wanted}") from None
