"""What the attention templates are filled with: loads, bounds of the keys, score, mask, and the stabilizer.

The mask is read as a conjunction. Conjuncts that compare j with an expression free of j bound the keys that
a tile of queries sees; only keys between the bounds are read, and tiles inside them skip the mask when
bounds are all it says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from headrace.codegen import expr_triton as et
from headrace.codegen import stabilizers
from headrace.codegen.attention.bounds import bounds, conjuncts, rises
from headrace.codegen.expr_triton import Code, Kind, Value
from headrace.codegen.plan import Param, Read, conversion, next_power_of_two, pointer
from headrace.ir.dtype import DType
from headrace.ir.expr import Call, Const, Expr, Ref, cast, fold, refs, substitute
from headrace.ir.spec import Attention, Denominator, Extra, Stabilizer, Weighting


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound of j for a tile of queries: at the first and last query of the tile, or over all of them.

    `first` and `last` are scalars where the bound rises with i; otherwise both are one vector over the tile's
    rows (`vector`), of which a kernel takes the least and the largest.
    """

    first: Code
    last: Code
    vector: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """How a template spells its query rows: prefill has a vector i and a scalar h, decode packs heads into
    rows."""

    i: str
    h: str
    valid: str

    def varies(self, extra: Extra) -> bool:
        """True where an extra has a value per row."""
        return ("i" in extra.dims and self.i != "0") or ("h" in extra.dims and self.h == "rows")

    def env(self, *, tile: bool) -> dict[str, Value]:
        index = "[:, None]" if tile else ""
        found = {
            "b": et.name("b", Kind.INT, natural=True, most=et.LARGEST_INDEX),
            "j": et.name("j", Kind.INT, natural=True, most=et.LARGEST_INDEX, index="[None, :]"),
        }
        if self.i == "0":
            found["i"] = et.literal(0)
        else:
            found["i"] = et.name(self.i, Kind.INT, natural=True, most=et.LARGEST_INDEX, index=index)
        found["h"] = et.name(
            "h", Kind.INT, natural=True, most=et.LARGEST_INDEX, index=index if self.h == "rows" else ""
        )
        return found


def _offset(extra: Extra, rows: Rows, *, tile: bool) -> Code:
    index = "[:, None]" if tile else ""
    text = {
        "b": "b",
        "h": f"h{index}" if rows.h == "rows" else "h",
        "i": f"{rows.i}{index}" if rows.i != "0" else "0",
    }
    text["j"] = "j[None, :]"
    terms = []
    for dim in extra.dims:
        if dim == "j" and extra.dims[-1] == "j":
            terms.append(text["j"])
        elif text[dim] != "0":
            terms.append(f"{text[dim]} * {extra.name}_s{dim}")
    return et.total(terms)


def _read(extra: Extra, rows: Rows, *, tile: bool) -> Read:
    masks = []
    if rows.varies(extra):
        masks.append(f"{rows.valid}[:, None]" if tile else rows.valid)
    if "j" in extra.dims:
        masks.append("(j < key_to)[None, :]")
    return Read(extra.name, _offset(extra, rows, tile=tile), et.conjunction(masks), conversion(extra))


def _values(spec: Attention, rows: Rows, *, tile: bool, suffix: str = "val") -> dict[str, Value]:
    """The environment of an expression: indices and the loaded extras."""
    env = rows.env(tile=tile)
    for extra in spec.extras:
        env[extra.name] = et.name(f"{extra.name}_{suffix}", Kind.of(extra.dtype))
    return env


def strides(name: str, dims: str, tensor: str) -> list[Param]:
    return [Param(f"stride_{name}{d}", "i64", f"{tensor}_strides[{at}]") for at, d in enumerate(dims)]


def context(
    spec: Attention, rows: Rows, block_j: int, how: Stabilizer, *, gpu: bool = False, whole: bool = False
) -> dict[str, object]:
    """The values of the shared macros for a Spec under a stabilizer; `none` scales no weights.

    Args:
        whole: the program that guards a row knows its bounds, because it has seen all of its keys.
        gpu: lazy rescaling jumps over the rescaling of accumulators, which matrix units cannot do on the
            way. On the CPU the factor enters the product's own loads, and a branch would copy the tile.
    """
    found = bounds(spec.mask, spec.extras)
    score = _of_rows(spec, rows, spec.score)
    rest = [_of_rows(spec, rows, part) for part in found.rest]
    parts = [_of_rows(spec, rows, part) for part in conjuncts(spec.mask)]
    tile_env = _values(spec, rows, tile=True) | {"s": et.name("s", Kind.FLOAT)}
    score_value = et.render(score, tile_env)
    scaled = how is not Stabilizer.NONE
    if scaled:
        score_value = et.rounded_product(score_value)
    score_text = score_value.code
    if "s" not in refs(score):
        score_text = Code(f"tl.zeros_like(s) + {et.as_float(score_value).text}")
    shown = [et.as_bool(et.render(part, tile_env)) for part in parts]
    reading = refs(score).union(*(refs(part) for part in parts))
    extras = [e for e in spec.extras if e.name in reading]
    reads = {e.name: _read(e, rows, tile=True) for e in extras}
    factor = _factor(spec.score, powers=how is Stabilizer.PAIR) if scaled else Code("")
    guarded = how is Stabilizer.UNIFIED
    # A row whose keys are bounded from above only sees one if it sees the first.
    above = whole and bool(found.upper) and not found.lower and not rest
    hidden = [_row_bound(spec, rows, fold(e)) for e in found.upper] if guarded and above else []
    in_bounds = frozenset().union(*(refs(e) for e in (*found.lower, *found.upper)))
    low = [_limit(spec, rows, fold(e)) for e in found.lower]
    high = [_limit(spec, rows, fold(e)) for e in found.upper]
    return {
        "scalars": [reads[e.name] for e in extras if not e.dims],
        "hoisted": [reads[e.name] for e in extras if e.dims and "j" not in e.dims],
        "inner": [reads[e.name] for e in extras if "j" in e.dims],
        "limits": [_read(e, rows, tile=False) for e in spec.extras if e.name in in_bounds and e.dims],
        "lower": low, "upper": high, "mask": [value.text for value in map(_as_code, shown)],
        "always_masked": bool(rest), "score": score_text,
        "score_as_is": score == Ref("s") or (bool(factor) and scale(spec.score) is not None),
        "factor": factor, "exp": Code("tl.exp2" if factor else "tl.exp"),
        "stabilizer": str(how), "online": how in stabilizers.EXACT,
        "guarded": guarded, "tracked": guarded and bool(parts) and not hidden, "hidden": hidden,
        "phi": stabilizers.phi(spec.normalizer, base_two=bool(factor)), "slack": _slack(spec.score),
        "gpu": gpu,
        "lowest": stabilizers.LOWEST, "highest": stabilizers.HIGHEST, "tiny": stabilizers.TINY,
        "weighting": spec.normalizer.weighting, "safe": spec.safe,
        "divide": spec.normalizer.denominator is Denominator.SUM,
        "block_j": block_j, "d_k": spec.d_k, "d_v": spec.d_v,
        "block_k": max(16, next_power_of_two(spec.d_k)), "block_v": max(16, next_power_of_two(spec.d_v)),
        "heads": spec.heads, "k_group": spec.heads // spec.k_heads, "v_group": spec.heads // spec.v_heads,
        "qk_convert": Code("" if spec.q is spec.k else ".to(tl.float32)"),
        # Weights that fit the value operand's type take it: of sigmoid, or at most 2^8 by a maximum; with a
        # constant phi they need the range of bfloat16 at least. Others stay float32.
        "narrow": spec.v is not DType.F32 and (
            spec.normalizer.weighting is Weighting.SIGMOID
            or (scaled and (how is not Stabilizer.UNIFIED or spec.v is DType.BF16))
        ),
    }  # fmt: skip


def _as_code(value: Value) -> Value:
    return replace(value, text=Code(value.text))


def _factor(score: Expr, *, powers: bool) -> Code:
    """What s is multiplied with to be an exponent of two: where the score is s times a positive constant.

    exp(x - max x) is then 2^((s - max s) * factor), which saves the multiplication by the constant. Where
    `powers` of two are asked for, a factor is found for any score, which is then computed first.
    """
    constant = scale(score)
    if constant is None:
        return Code(repr(math.log2(math.e)) if powers else "")
    return Code(repr(constant * math.log2(math.e)))


def scale(score: Expr) -> float | None:
    """c where the score is c s with a constant c > 0 that float32 holds, and c log2(e) too."""
    factor = 1.0
    if isinstance(score, Call) and score.fn == "mul" and Ref("s") in score.args:
        other = score.args[1] if score.args[0] == Ref("s") else score.args[0]
        if not isinstance(other, Const) or isinstance(other.value, bool):
            return None
        factor = float(other.value)
    elif score != Ref("s"):
        return None
    return factor if 1e-30 < factor < 1e30 else None


def _slack(score: Expr) -> Code:
    """How far s, or the score where there is no factor, may exceed a lazy maximum."""
    return Code(repr(stabilizers.SLACK * math.log(2.0) / (scale(score) or 1.0)))


def stabilizer_of(spec: Attention, knobs: Mapping[str, int | str]) -> Stabilizer:
    """What a Schedule's knobs take: `none` where weights are not scaled, `online` where nothing is asked."""
    normalizer = spec.normalizer
    if normalizer.weighting is not Weighting.EXP or normalizer.stabilizer is Stabilizer.NONE:
        return Stabilizer.NONE
    if not stabilizers.permitted(normalizer):
        return Stabilizer.ONLINE
    return Stabilizer(str(knobs.get(stabilizers.KNOB, Stabilizer.ONLINE)))


def _row_env(spec: Attention, rows: Rows) -> dict[str, Value]:
    """Indices, and extras per row."""
    env = rows.env(tile=False)
    for extra in spec.extras:
        env[extra.name] = et.name(f"{extra.name}_{'row' if extra.dims else 'val'}", Kind.of(extra.dtype))
    return env


def _of_rows(spec: Attention, rows: Rows, expr: Expr) -> Expr:
    """An expression with i = 0 where there is one query. What i has made int64 for torch stays int64."""
    if rows.i != "0" or "i" not in refs(expr):
        return fold(expr)
    small = (DType.I8, DType.I16, DType.I32, DType.U8)
    wide = {each.name: cast(DType.I64, Ref(each.name)) for each in spec.extras if each.dtype in small}
    return fold(substitute(expr, {"i": Const(0)} | wide))


def _row_bound(spec: Attention, rows: Rows, expr: Expr) -> Code:
    """A bound of each row, as a vector over the rows or a scalar."""
    return et.render(_of_rows(spec, rows, expr), _row_env(spec, rows)).code


def _limit(spec: Attention, rows: Rows, expr: Expr) -> Limit:
    """A bound's text. Extras of a bound are loaded per row as `<name>_row` (scalars as `<name>_val`)."""
    env = _row_env(spec, rows)
    per_row = {extra.name for extra in spec.extras if rows.varies(extra)}
    names = refs(expr)
    if rows.i == "0":
        expr = _of_rows(spec, rows, expr)
    elif "i" in names and rises(expr) and not names & per_row and not (rows.h == "rows" and "h" in names):
        ends = [
            et.render(
                expr, env | {"i": et.name(f"{end}_i", Kind.INT, natural=True, most=et.LARGEST_INDEX)}
            ).code
            for end in ("first", "last")
        ]
        return Limit(ends[0], ends[1], vector=False)
    value = et.render(expr, env)
    if isinstance(value.const, int):  # there are fewer keys than int32 counts
        value = et.literal(max(-et.LARGEST_INDEX, min(value.const, et.LARGEST_INDEX)))
    text = value.code
    vector = bool(names & per_row) or ("i" in names and rows.i != "0") or (rows.h == "rows" and "h" in names)
    return Limit(text, text, vector)


def inputs(spec: Attention) -> tuple[list[Param], list[Param]]:
    """Pointer parameters and stride parameters."""
    pointers = [pointer("Q", spec.q, "q"), pointer("K", spec.k, "k"), pointer("V", spec.v, "v")]
    found = strides("q", "bhi", "q") + strides("k", "bhj", "k") + strides("v", "bhj", "v")
    reading = refs(spec.score) | refs(spec.mask)
    for extra in spec.extras:
        if extra.name not in reading:
            continue
        pointers.append(pointer(f"{extra.name}_ptr", extra.dtype, f"{extra.name}_t"))
        for at, dim in enumerate(extra.dims):
            if not (dim == "j" and at == len(extra.dims) - 1):
                found.append(Param(f"{extra.name}_s{dim}", "i64", f"{extra.name}_t_strides[{at}]"))
    return pointers, found
