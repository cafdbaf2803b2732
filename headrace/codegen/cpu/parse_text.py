"""Tokens, locations, types and attributes of printed MLIR: what the grammar of operations is built on."""

from __future__ import annotations

import re
import struct
from functools import lru_cache

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.float8 import FLOAT8
from headrace.codegen.cpu.ttir import Loc, Type
from headrace.errors import UnsupportedTtir

_NEST = r"<(?:[^<>]|<(?:[^<>]|<[^<>]*>)*>)*>"
_TOKEN = re.compile(
    rf"""(?P<skip>[ \t]+|//[^\n]*)|(?P<nl>\n)
    |(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<type>tensor{_NEST}|!tt\.ptr{_NEST})
    |(?P<value>%[\w$.\-]+)|(?P<block>\^\w+)|(?P<symbol>@(?:[\w$.\-]+|"[^"]*"))
    |(?P<number>0x[0-9A-Fa-f]+|-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)
    |(?P<alias>[\#!][\w.]+)|(?P<word>[A-Za-z_][\w.$]*)
    |(?P<punct>->|<\{{|\}}>|[=:,(){{}}\[\]<>*?])""",
    re.X,
)
_SCALAR = re.compile(r"(?:i\d+|index|bf16|tf32|f\d+\w*)$")


@lru_cache(maxsize=4096)
def parse_type(text: str) -> Type:
    """Parse ``i32``, ``!tt.ptr<f16>`` or ``tensor<4x8x!tt.ptr<f16>>``; ValueError otherwise."""
    if text.startswith("tensor<"):
        parts = re.match(r"tensor<((?:\d+x)*)(.*)>$", text, re.S)
        if parts is None:
            raise ValueError(text)
        element = parse_type(parts.group(2).strip())
        if isinstance(element, ttir.TensorType):
            raise ValueError(text)
        return ttir.TensorType(tuple(int(d) for d in parts.group(1).split("x") if d), element)
    if text.startswith("!tt.ptr<"):
        pointee = parse_type(re.sub(r",\s*\d+$", "", text[len("!tt.ptr<") : -1]).strip())
        if isinstance(pointee, ttir.TensorType):
            raise ValueError(text)
        return ttir.PointerType(pointee)
    if not _SCALAR.match(text):
        raise ValueError(text)
    return ttir.ScalarType(text.lower())


class Reader:
    """A cursor over the tokens of one module, with the small grammars that all operations share."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.kinds: list[str] = []
        self.toks: list[str] = []
        self.offsets: list[int] = []
        self.lines: list[int] = []
        position, line = 0, 1
        for m in _TOKEN.finditer(text):
            kind = m.lastgroup
            if m.start() != position:
                break
            position = m.end()
            if kind == "skip" or kind is None:
                continue
            if kind == "nl":
                line += 1
                continue
            self.lines.append(line)
            self.kinds.append(kind)
            self.toks.append(m.group())
            self.offsets.append(m.start())
        if position != len(text):
            raise ttir.unsupported(
                "module", f"cannot read {text[position : position + 20]!r}", self._line(position)
            )
        self.kinds += ["eof", "eof"]
        self.toks += ["", ""]
        self.offsets += [position, position]
        self.lines += [line + 1, line + 1]
        self.i = 0
        self.op, self.op_at = "module", 0  # what errors name
        self.locs: dict[str, Loc | None] = {}
        self.loc_at: dict[str, int] = {}

    # ---- tokens --------------------------------------------------------------------------------------------
    def _line(self, offset: int) -> str:
        return f"TTIR line {self.text.count(chr(10), 0, offset) + 1}"

    def fail(self, why: str) -> UnsupportedTtir:
        """The error for the operation at hand, with its source line if its text has one."""
        line = self.lines[self.op_at]
        for k in range(self.op_at, len(self.toks) - 1):
            if self.lines[k] != line:
                break
            if self.toks[k] == "loc" and self.toks[k + 1] == "(":
                self.i = k + 2
                loc = self.location()
                if loc is not None:
                    return ttir.unsupported(self.op, why, f"{loc.kernel} (TTIR line {line})")
        return ttir.unsupported(self.op, why, f"TTIR line {line}")

    def peek(self, tok: str) -> bool:
        return self.toks[self.i] == tok

    def accept(self, tok: str) -> bool:
        if self.toks[self.i] == tok:
            self.i += 1
            return True
        return False

    def expect(self, tok: str) -> None:
        if not self.accept(tok):
            raise self.fail(f"expected {tok!r}, found {self.toks[self.i]!r}")

    def take(self, kind: str) -> str:
        if self.kinds[self.i] != kind:
            raise self.fail(f"expected a {kind}, found {self.toks[self.i]!r}")
        self.i += 1
        return self.toks[self.i - 1]

    def string(self) -> str:
        raw = self.take("string")[1:-1]
        return re.sub(
            r"\\([0-9A-Fa-f]{2}|.)",
            lambda m: chr(int(m[1], 16)) if len(m[1]) == 2 else {"n": "\n", "t": "\t"}.get(m[1], m[1]),
            raw,
        )

    # ---- locations -----------------------------------------------------------------------------------------
    def location(self) -> Loc | None:
        """What stands inside ``loc( )``: alias, "file":line:col, "name"(loc), callsite(a at b),
        fused[...]."""
        kind, tok = self.kinds[self.i], self.toks[self.i]
        if kind == "alias":
            self.i += 1
            return self.alias(tok)
        if kind == "string":
            name = self.string()
            if self.accept("("):
                inner = self.location()
                self.expect(")")
                return inner
            if self.accept(":"):
                line = int(self.take("number"))
                self.expect(":")
                column = int(self.take("number"))
                if self.accept("to"):
                    while not self.peek(")"):
                        self.i += 1
                return Loc(name, line, column)
            return None
        self.i += 1
        if tok == "callsite":
            self.expect("(")
            callee = self.location()
            self.expect("at")
            caller = self.location()
            self.expect(")")
            if callee is None:
                return caller
            return Loc(
                callee.file, callee.line, callee.column, caller if callee.caller is None else callee.caller
            )
        if tok == "fused":
            depth, found = 0, None
            while not (depth == 0 and self.peek(")")):
                if self.kinds[self.i] in ("alias", "string") and found is None and depth:
                    found = self.location()
                    continue
                depth += {"[": 1, "<": 1, "]": -1, ">": -1}.get(self.toks[self.i], 0)
                self.i += 1
            return found
        return None

    def alias(self, name: str) -> Loc | None:
        if name not in self.locs:
            at = self.loc_at.get(name)
            if at is None:
                return None
            here, self.i = self.i, at
            self.locs[name] = None
            self.locs[name] = self.location()
            self.i = here
        return self.locs[name]

    def trailing_loc(self) -> Loc | None:
        if self.toks[self.i] == "loc" and self.toks[self.i + 1] == "(":
            self.i += 2
            found = self.location()
            self.expect(")")
            return found
        return None

    def collect_aliases(self) -> None:
        toks = self.toks
        for j, kind in enumerate(self.kinds):
            if kind == "alias" and toks[j + 1] == "=" and toks[j].startswith("#loc") and toks[j + 2] == "loc":
                self.loc_at[toks[j]] = j + 4

    # ---- types and attributes ------------------------------------------------------------------------------
    def type(self) -> Type:
        tok = self.toks[self.i]
        try:
            found = parse_type(tok)
        except ValueError:
            if tok == "!tt.tensordesc":
                raise self.fail("a tensor descriptor that Triton's rewrite to pointers has left") from None
            raise self.fail(f"type {tok!r} is not supported") from None
        self.i += 1
        return found

    def types(self, close: str) -> list[Type]:
        found: list[Type] = []
        while not self.accept(close):
            found.append(self.type())
            self.accept(",")
        return found

    def type_or_types(self) -> list[Type]:
        return self.types(")") if self.accept("(") else [self.type()]

    def attr_dict(self, close: str = "}") -> dict[str, object]:
        attrs: dict[str, object] = {}
        while not self.accept(close):
            if self.kinds[self.i] not in ("string", "word"):
                raise self.fail(f"{self.toks[self.i]!r} where an attribute's name is expected")
            name = self.string() if self.kinds[self.i] == "string" else self.toks[self.i]
            if self.kinds[self.i] == "word":
                self.i += 1
            attrs[name] = self.attr() if self.accept("=") else True
            self.accept(",")
        return attrs

    def attr(self) -> object:
        kind, tok = self.kinds[self.i], self.toks[self.i]
        if kind == "string":
            return self.string()
        if kind == "number":
            self.i += 1
            type_ = self.type() if self.accept(":") else None
            return number(tok, type_)
        if kind == "type":
            return self.type()
        if kind == "symbol":
            self.i += 1
            return tok[1:].strip('"')
        if tok == "{":
            self.i += 1
            return self.attr_dict()
        if tok == "[":
            self.i += 1
            items = []
            while not self.accept("]"):
                items.append(self.attr())
                self.accept(",")
            return tuple(items)
        self.i += 1
        if kind == "alias":
            return self.attr_dict(">") if self.accept("<") else tok
        if tok in ("true", "false"):
            return tok == "true"
        if tok == "array" and self.accept("<"):
            self.i += 1  # element type
            values: list[object] = []
            self.accept(":")
            while not self.accept(">"):
                values.append(self.attr())
                self.accept(",")
            return tuple(values)
        if tok == "dense" and self.accept("<"):
            elements = self.attr()
            self.expect(">")
            self.expect(":")
            self.type()
            return elements
        if tok == "unit":
            return True
        return tok


def number(text: str, type_: Type | None) -> int | float | bool:
    """A printed literal as a Python number; hexadecimal floats are bit patterns."""
    element = ttir.element_of(type_) if type_ is not None else None
    if text in ("true", "false"):
        return text == "true"
    if isinstance(element, ttir.ScalarType) and element.is_float:
        return _float_bits(int(text, 16), element) if text.startswith("0x") else float(text)
    if text.startswith("0x"):
        return int(text, 16)
    if element is None and ("." in text or "e" in text.lower()):
        return float(text)
    return int(text)


def packed(text: str, type_: Type) -> tuple[int | float | bool, ...]:
    """The elements of a dense constant that is printed as one hexadecimal string, lowest byte first.

    A single element stands for all; ``i1`` takes a bit where there are several.
    """
    element = ttir.element_of(type_)
    data = bytes.fromhex(text.removeprefix("0x"))
    count = type_.numel if isinstance(type_, ttir.TensorType) else 1
    if element == ttir.I1:
        if len(data) * 8 < count:
            return (bool(data[0]),)
        return tuple(bool(data[k // 8] >> (k % 8) & 1) for k in range(count))
    size = max(1, element.bits // 8)
    codes = [int.from_bytes(data[k : k + size], "little") for k in range(0, len(data), size)]
    if isinstance(element, ttir.ScalarType) and element.is_float:
        return tuple(_float_bits(c, element) for c in codes)
    top = 1 << (element.bits - 1)
    return tuple(c - 2 * top if c >= top else c for c in codes)


def _float_bits(bits: int, type_: ttir.ScalarType) -> float:
    if type_.name in FLOAT8:
        return FLOAT8[type_.name].value(bits)
    if type_.name == "bf16":
        return float(struct.unpack("<f", struct.pack("<I", bits << 16))[0])
    code = {"f16": ("<e", "<H"), "f32": ("<f", "<I"), "f64": ("<d", "<Q")}.get(type_.name)
    if code is None:
        raise ValueError(f"hexadecimal {type_} constant")
    return float(struct.unpack(code[0], struct.pack(code[1], bits))[0])
