"""Attention kernels: the Plans of `prefill` (one pass over the keys) and `decode` (keys split over programs).

The mask is read as a conjunction. Conjuncts that compare j with an expression free of j bound the keys that
a tile of queries sees; only keys between the bounds are read, and tiles inside them skip the mask when
bounds are all it says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from headrace.codegen import expr_triton as et
from headrace.codegen.attention.bounds import bounds, conjuncts, rises
from headrace.codegen.expr_triton import Code, Kind, Value
from headrace.codegen.plan import (
    Buffer,
    Facts,
    Launch,
    Param,
    Plan,
    Read,
    conversion,
    next_power_of_two,
    pointer,
)
from headrace.errors import ScheduleError
from headrace.ir.device import Device
from headrace.ir.dtype import DType
from headrace.ir.expr import Call, Const, Expr, Ref, fold, refs, substitute
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Attention, Denominator, Extra, Stabilizer, Weighting

FLOATS = frozenset({DType.F32, DType.F16, DType.BF16})


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
class _Rows:
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
            "b": et.name("b", Kind.INT, natural=True),
            "j": et.name("j", Kind.INT, natural=True, index="[None, :]"),
        }
        if self.i == "0":
            found["i"] = et.literal(0)
        else:
            found["i"] = et.name(self.i, Kind.INT, natural=True, index=index)
        found["h"] = et.name("h", Kind.INT, natural=True, index=index if self.h == "rows" else "")
        return found


def _offset(extra: Extra, rows: _Rows, *, tile: bool) -> Code:
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


def _read(extra: Extra, rows: _Rows, *, tile: bool) -> Read:
    masks = []
    if rows.varies(extra):
        masks.append(f"{rows.valid}[:, None]" if tile else rows.valid)
    if "j" in extra.dims:
        masks.append("(j < key_to)[None, :]")
    return Read(extra.name, _offset(extra, rows, tile=tile), et.conjunction(masks), conversion(extra))


def _values(spec: Attention, rows: _Rows, *, tile: bool, suffix: str = "val") -> dict[str, Value]:
    """The environment of an expression: indices and the loaded extras."""
    env = rows.env(tile=tile)
    for extra in spec.extras:
        env[extra.name] = et.name(f"{extra.name}_{suffix}", Kind.of(extra.dtype))
    return env


def _strides(name: str, dims: str, tensor: str) -> list[Param]:
    return [Param(f"stride_{name}{d}", "i64", f"{tensor}_strides[{at}]") for at, d in enumerate(dims)]


def _context(spec: Attention, rows: _Rows, block_j: int) -> dict[str, object]:
    found = bounds(spec.mask, spec.extras)
    scale = {"i": Const(0)} if rows.i == "0" else {}
    score = fold(substitute(spec.score, scale))
    rest = [fold(substitute(part, scale)) for part in found.rest]
    whole = [fold(substitute(part, scale)) for part in conjuncts(spec.mask)]
    tile_env = _values(spec, rows, tile=True) | {"s": et.name("s", Kind.FLOAT)}
    score_value = et.render(score, tile_env)
    score_text = score_value.code
    if "s" not in refs(score):
        score_text = Code(f"tl.zeros_like(s) + {et.as_float(score_value).text}")
    shown = [et.as_bool(et.render(part, tile_env)) for part in whole]
    reading = refs(score).union(*(refs(part) for part in whole))
    extras = [e for e in spec.extras if e.name in reading]
    reads = {e.name: _read(e, rows, tile=True) for e in extras}
    factor = _factor(spec.score) if _online(spec) else Code("")
    in_bounds = frozenset().union(*(refs(e) for e in (*found.lower, *found.upper)))
    low = [_limit(spec, rows, fold(e)) for e in found.lower]
    high = [_limit(spec, rows, fold(e)) for e in found.upper]
    return {
        "scalars": [reads[e.name] for e in extras if not e.dims],
        "hoisted": [reads[e.name] for e in extras if e.dims and "j" not in e.dims],
        "inner": [reads[e.name] for e in extras if "j" in e.dims],
        "limits": [_read(e, rows, tile=False) for e in spec.extras if e.name in in_bounds and e.dims],
        "lower": low, "upper": high, "mask": [value.text for value in map(_as_code, shown)],
        "always_masked": bool(rest), "score": score_text, "trivial_score": score == Ref("s"),
        "finite": not any("j" in e.dims for e in extras if e.name in refs(score)) and _finite(score),
        "factor": factor, "exp": Code("tl.exp2" if factor else "tl.exp"),
        "weighting": spec.normalizer.weighting, "online": _online(spec), "safe": spec.safe,
        "divide": spec.normalizer.denominator is Denominator.SUM,
        "block_j": block_j, "d_k": spec.d_k, "d_v": spec.d_v,
        "block_k": max(16, next_power_of_two(spec.d_k)), "block_v": max(16, next_power_of_two(spec.d_v)),
        "heads": spec.heads, "k_group": spec.heads // spec.k_heads, "v_group": spec.heads // spec.v_heads,
        "qk_convert": Code("" if spec.q is spec.k else ".to(tl.float32)"),
        # Weights of softmax lie in [0, 1] and may take the value operand's type; others keep float32's range.
        "narrow": spec.v is not DType.F32
        and (_online(spec) or spec.normalizer.weighting is Weighting.SIGMOID),
    }  # fmt: skip


def _as_code(value: Value) -> Value:
    return replace(value, text=Code(value.text))


def _finite(score: Expr) -> bool:
    """True where a finite dot product surely gives a score above minus infinity."""
    return not any(isinstance(node, Const) and isinstance(node.value, float) and math.isinf(node.value)
                   for node in _nodes(score)) and "log" not in str(score)  # fmt: skip


def _nodes(expr: Expr) -> list[Expr]:
    return [expr, *(node for arg in expr.args for node in _nodes(arg))] if isinstance(expr, Call) else [expr]


def _factor(score: Expr) -> Code:
    """What s is multiplied with to be an exponent of two: where the score is s times a positive constant.

    exp(x - max x) is then 2^(s * factor - max), one multiply-add before the exponential instead of two.
    """
    factor = 1.0
    if isinstance(score, Call) and score.fn == "mul" and Ref("s") in score.args:
        other = score.args[1] if score.args[0] == Ref("s") else score.args[0]
        if not isinstance(other, Const) or isinstance(other.value, bool):
            return Code("")
        factor = float(other.value)
    elif score != Ref("s"):
        return Code("")
    factor *= math.log2(math.e)
    return Code(repr(factor) if 1e-30 < factor < 1e30 else "")


def _online(spec: Attention) -> bool:
    return spec.normalizer.weighting is Weighting.EXP and spec.normalizer.stabilizer is Stabilizer.ONLINE


def _limit(spec: Attention, rows: _Rows, expr: Expr) -> Limit:
    """A bound's text. Extras of a bound are loaded per row as `<name>_row` (scalars as `<name>_val`)."""
    env = rows.env(tile=False)
    per_row = set()
    for extra in spec.extras:
        env[extra.name] = et.name(f"{extra.name}_{'row' if extra.dims else 'val'}", Kind.of(extra.dtype))
        if rows.varies(extra):
            per_row.add(extra.name)
    names = refs(expr)
    if rows.i == "0":
        expr = fold(substitute(expr, {"i": Const(0)}))
    elif "i" in names and rises(expr) and not names & per_row and not (rows.h == "rows" and "h" in names):
        ends = [
            et.render(expr, env | {"i": et.name(f"{end}_i", Kind.INT, natural=True)}).code
            for end in ("first", "last")
        ]
        return Limit(ends[0], ends[1], vector=False)
    text = et.render(expr, env).code
    vector = bool(names & per_row) or ("i" in names and rows.i != "0") or (rows.h == "rows" and "h" in names)
    return Limit(text, text, vector)


def _inputs(spec: Attention) -> tuple[list[Param], list[Param]]:
    """Pointer parameters and stride parameters."""
    pointers = [pointer("Q", spec.q, "q"), pointer("K", spec.k, "k"), pointer("V", spec.v, "v")]
    strides = _strides("q", "bhi", "q") + _strides("k", "bhj", "k") + _strides("v", "bhj", "v")
    reading = refs(spec.score) | refs(spec.mask)
    for extra in spec.extras:
        if extra.name not in reading:
            continue
        pointers.append(pointer(f"{extra.name}_ptr", extra.dtype, f"{extra.name}_t"))
        for at, dim in enumerate(extra.dims):
            if not (dim == "j" and at == len(extra.dims) - 1):
                strides.append(Param(f"{extra.name}_s{dim}", "i64", f"{extra.name}_t_strides[{at}]"))
    return pointers, strides


def plan(spec: Attention, schedule: Schedule, device: Device, facts: Facts | None = None) -> Plan:
    """The Plan of an Attention; `facts.sizes` = (1,) specialises decode to one query.

    Raises:
        ScheduleError: an extra varies along a dimension that Attention lacks.
    """
    for extra in spec.extras:
        if not set(extra.dims) <= set("bhij"):
            raise ScheduleError(f"extra {extra} of an Attention has dims out of bhij")
    build = _prefill if schedule.dataflow == "prefill" else _decode
    return build(spec, dict(schedule.knobs), facts or Facts())


def _plan(spec: Attention, template: str, context: Mapping[str, object], launches: tuple[Launch, ...],
          workspace: tuple[Buffer, ...] = (), exact: tuple[str, ...] = ()) -> Plan:  # fmt: skip
    extras = [e for e in spec.extras if e.dims]
    strided = ["q", "k", "v", *(f"{e.name}_t" for e in extras)]
    return Plan(
        template=template,
        context=context,
        operands=("q", "k", "v", *(f"{e.name}_t" for e in spec.extras)),
        contiguous=(),
        inner=("q", "k", "v", *(f"{e.name}_t" for e in extras if e.dims[-1] == "j")),
        exact=exact,
        sizes=(
            ("B, _, I, _", "q.shape"),
            ("J", "k.shape[2]"),
            *((f"{n}_strides", f"{n}.stride()") for n in strided),
        ),
        outputs=(Buffer("o", spec.out, ("B", str(spec.heads), "I", str(spec.d_v))),),
        workspace=workspace,
        launches=launches,
    )


def _prefill(spec: Attention, knobs: Mapping[str, int | str], facts: Facts) -> Plan:
    rows = _Rows("i", "scalar", "(i < I)")
    block_i, block_j = int(knobs["block_i"]), int(knobs["block_j"])
    pointers, strides = _inputs(spec)
    params = [
        *pointers,
        pointer("O", spec.out, "o"),
        Param("I", "i32", "I"),
        Param("J", "i32", "J"),
        *strides,
    ]
    params += _strides("o", "bhi", "o")
    context = _context(spec, rows, block_j) | {"block_i": block_i}
    context["params"] = [p.declaration for p in params]
    warps, stages = int(knobs.get("num_warps", 4)), int(knobs.get("num_stages", 2))
    grid = (f"(I + {block_i - 1}) // {block_i}", f"B * {spec.heads}", "1")
    return _plan(spec, "prefill", context, (Launch("prefill", tuple(params), grid, warps, stages),))


def group_size(spec: Attention) -> int:
    """Query heads that share both a K head and a V head, packed into the rows of one decode program."""
    return math.gcd(spec.heads // spec.k_heads, spec.heads // spec.v_heads)


def _decode(spec: Attention, knobs: Mapping[str, int | str], facts: Facts) -> Plan:
    single = facts.sizes == (1,)
    group = group_size(spec)
    block_r, block_j, splits = int(knobs["block_r"]), int(knobs["block_j"]), int(knobs["splits"])
    rows = _Rows("0" if single else "i", "rows" if group > 1 else "scalar", "valid")
    pointers, strides = _inputs(spec)
    sizes = [Param("I", "i32", "I"), Param("J", "i32", "J")]
    out, out_strides = pointer("O", spec.out, "o"), _strides("o", "bhi", "o")
    partial = [pointer("ACC", DType.F32, "acc"), pointer("STATE", DType.F32, "state")]
    params = [
        *pointers,
        *(partial if splits > 1 else [out]),
        *sizes,
        *strides,
        *(() if splits > 1 else out_strides),
    ]
    context = _context(spec, rows, block_j) | {
        "block_r": block_r, "splits": splits, "group": group, "single": single,
        "groups": spec.heads // group, "block_s": next_power_of_two(splits),
    }  # fmt: skip
    context["params"] = [p.declaration for p in params]
    merge = [*partial, out, sizes[0], *out_strides]
    context["merge_params"] = [p.declaration for p in merge]
    packed = f"(I * {group} + {block_r - 1}) // {block_r}"
    warps, stages = int(knobs.get("num_warps", 4)), int(knobs.get("num_stages", 2))
    launches = [
        Launch("decode", tuple(params), (str(splits), f"B * {spec.heads // group}", packed), warps, stages)
    ]
    workspace: tuple[Buffer, ...] = ()
    if splits > 1:
        launches.append(Launch("decode_merge", tuple(merge), ("I", f"B * {spec.heads}", "1"), 2, 1))
        rows_total = ("B", str(spec.heads), "I", str(splits))
        workspace = (
            Buffer("acc", DType.F32, (*rows_total, str(spec.d_v))),
            Buffer("state", DType.F32, (*rows_total, "2")),
        )
    return _plan(spec, "decode", context, tuple(launches), workspace, ("I == 1",) if single else ())


def supported(spec: Attention, device: Device) -> str | None:
    """Why no generated Attention kernel takes this Spec, or None."""
    if not {spec.q, spec.k, spec.v, spec.out} <= FLOATS:
        return "operands and output must be float32, float16 or bfloat16"
    if any(extra.dtype is DType.F64 for extra in spec.extras):
        return "kernels compute in float32; an extra is float64"
    if not spec.d_k or not spec.d_v or max(spec.d_k, spec.d_v) > 512:
        return "head dimensions beyond 512 do not fit a tile"
    return None
