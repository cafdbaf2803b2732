"""The `library` dataflow: each Spec by PyTorch's own operators.

These are the calls that a user of PyTorch would write (`linear`, `baddbmm`, `scaled_dot_product_attention`,
`softmax`), in the operands' own types, with an expression's roundings where it states them. It is the
candidate that every generated kernel has to beat, and what runs where no kernel does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from headrace.ir import expr as scalar
from headrace.ir.dtype import DType
from headrace.ir.expr import Call, Const, Expr, Ref, call, refs
from headrace.ir.spec import Attention, Denominator, Gemm, Rows, Spec, Weighting

if TYPE_CHECKING:
    from torch import Tensor

# Scores below this stay finite when float32's lowest number is added, which is a common mask.
_FINITE = 1e30

Result = Any
Function = Callable[[Sequence["Tensor"]], Result]


def function(spec: Spec) -> Function:
    """A callable of the Spec's operands: one tensor, or a tuple where the Spec has several outputs.

    Whatever the operands' strides, results are laid out as kernels lay theirs out: contiguous, attention's
    as a transposed `[B, I, H, d_v]`.
    """
    if isinstance(spec, Gemm):
        return _gemm(spec)
    if isinstance(spec, Attention):
        attend = _attention(spec)
        return lambda inputs: attend(inputs).transpose(1, 2).contiguous().transpose(1, 2)
    return _rows(spec)


def _oracle(spec: Spec) -> Function:
    """Operator by operator, rounding where the Spec's casts say."""
    from headrace.ir.evaluate import evaluate_spec

    def run(inputs: Sequence[Tensor]) -> Result:
        results = tuple(value.contiguous() for value in evaluate_spec(spec, inputs, exact=False))
        return results if len(results) > 1 else results[0]

    return run


def plain(expr: Expr, dtype: DType) -> Expr:
    """The expression without an outermost cast to the type it is stored in."""
    while isinstance(expr, Call) and expr.fn == f"cast:{dtype.value}":
        expr = expr.args[0]
    return expr


def _gemm(spec: Gemm) -> Function:
    if any(w.dtype is not spec.x for w in spec.weights):
        return _oracle(spec)
    products = [_product(w.layout == "nk", spec.batched) for w in spec.weights]
    first_extra = 1 + len(spec.weights)
    bodies = [plain(o.expr, o.dtype) for o in spec.outputs]
    direct = {}  # outputs that are one weight's product
    for at, (output, body) in enumerate(zip(spec.outputs, bodies, strict=True)):
        if isinstance(body, Ref) and output.dtype is spec.x:
            direct[at] = next(i for i, w in enumerate(spec.weights) if f"acc_{w.name}" == body.name)
    if len(direct) == len(spec.outputs):
        if len(direct) == 1:
            product = products[direct[0]]
            operand = 1 + direct[0]
            return lambda inputs: product(inputs[0], inputs[operand])
        order = [(products[direct[at]], 1 + direct[at]) for at in range(len(direct))]
        return lambda inputs: tuple(fn(inputs[0], inputs[at]) for fn, at in order)

    def run(inputs: Sequence[Tensor]) -> Result:
        env = {f"acc_{w.name}": fn(inputs[0], inputs[1 + at])
               for at, (w, fn) in enumerate(zip(spec.weights, products, strict=True))}  # fmt: skip
        for extra, value in zip(spec.extras, inputs[first_extra:], strict=True):
            env[extra.name] = _spread(extra.dims, value, "bmn" if spec.batched else "mn")
        results = tuple(
            scalar.evaluate(body, env, exact=False).to(output.dtype.to_torch()).contiguous()
            for output, body in zip(spec.outputs, bodies, strict=True)
        )
        return results if len(results) > 1 else results[0]

    return run


def _product(rows_are_columns: bool, batched: bool) -> Callable[[Tensor, Tensor], Tensor]:
    import torch

    if batched:
        return (lambda x, w: torch.bmm(x, w.mT)) if rows_are_columns else torch.bmm
    return torch.nn.functional.linear if rows_are_columns else torch.mm


def _spread(dims: str, value: Tensor, letters: str) -> Tensor:
    """A view with one dimension per letter, of length 1 where the operand does not vary."""
    order = sorted(range(len(dims)), key=lambda at: letters.index(dims[at]))
    present = iter(value.permute(order).shape)
    return value.permute(order).reshape([next(present) if letter in dims else 1 for letter in letters])


def _scale_and_bias(score: Expr, extras: frozenset[str]) -> tuple[float, str | None] | None:
    """(scale, name of an additive extra) where the score is `scale * s (+ extra)`, else None."""
    bias = None
    if isinstance(score, Call) and score.fn == "add":
        for one, other in (score.args, score.args[::-1]):
            if isinstance(other, Ref) and other.name in extras and "s" in refs(one):
                score, bias = one, other.name
                break
    if score == Ref("s"):
        return 1.0, bias
    if isinstance(score, Call) and score.fn in ("mul", "div"):
        for one, other in (score.args, score.args[::-1]):
            if one == Ref("s") and isinstance(other, Const) and (score.fn == "mul" or score.args[1] is other):
                value = float(other.value)
                return (value if score.fn == "mul" else 1.0 / value), bias
    return None


def _attention(spec: Attention) -> Function:
    import torch

    softmax = spec.normalizer.weighting is Weighting.EXP and spec.normalizer.denominator is Denominator.SUM
    found = _scale_and_bias(spec.score, frozenset(e.name for e in spec.extras))
    same = spec.q is spec.k is spec.v is spec.out
    if not softmax or found is None or not same or spec.k_heads != spec.v_heads:
        return _oracle(spec)
    scale, bias = found
    added = next((extra.dtype for extra in spec.extras if extra.name == bias), spec.q)
    if added not in (spec.q, DType.F32, DType.BF16, DType.F16):
        return _oracle(spec)
    attend = torch.nn.functional.scaled_dot_product_attention
    gqa = spec.heads != spec.k_heads
    causal = spec.mask in (call("le", Ref("j"), Ref("i")), call("ge", Ref("i"), Ref("j")))
    exact = None if spec.safe else _unsafe(spec, scale)
    if bias is None and (causal or spec.mask == Const(True)):

        def simple(inputs: Sequence[Tensor]) -> Tensor:
            q, k, v = inputs[:3]
            out = attend(q, k, v, is_causal=causal, scale=scale, enable_gqa=gqa)
            return out if exact is None else exact(inputs, out, None, None)

        return simple

    def run(inputs: Sequence[Tensor]) -> Tensor:
        q, k, v = inputs[:3]
        if not k.shape[2]:  # a product over nothing
            return q.new_zeros(*q.shape[:3], v.shape[3])
        sizes = {"b": q.shape[0], "h": q.shape[1], "i": q.shape[2], "j": k.shape[2]}
        env = {
            d: torch.arange(n, device=q.device).view([-1 if d == e else 1 for e in "bhij"])
            for d, n in sizes.items()
        }
        for extra, value in zip(spec.extras, inputs[3:], strict=True):
            env[extra.name] = _spread(extra.dims, value, "bhij")
        visible = scalar.evaluate(spec.mask, env, exact=False).to(q.device)
        visible = visible.view([1] * (4 - visible.dim()) + list(visible.shape))
        as_given = None
        if bias is None:
            mask = visible.expand(*visible.shape[:2], sizes["i"], sizes["j"])
        else:
            # The operator takes a bias in q's type or in f32; in q's, eager would not have rounded it.
            wide = spec.q in (added, DType.F64)
            as_given = env[bias].to(q.dtype if wide else torch.float32)
            mask = as_given.masked_fill(~visible, float("-inf"))
            mask = mask.expand(*mask.shape[:2], sizes["i"], sizes["j"])
            visible = mask != float("-inf")
        out = attend(q, k, v, attn_mask=mask, scale=scale, enable_gqa=gqa)
        hidden = ~visible.any(-1, keepdim=True)
        if exact is None:
            return out.masked_fill(hidden, 0.0)
        return exact(inputs, out, hidden, as_given).masked_fill(hidden, float("nan"))

    return run


def _unsafe(
    spec: Attention, scale: float
) -> Callable[[Sequence[Tensor], Tensor, Tensor | None, Tensor | None], Tensor]:
    """What makes of scaled dot-product attention what softmax gives: NaN in rows of nothing but -inf.

    The operator gives such rows zeros, and on CPUs some rows of NaN and of +inf as well. So rows without any
    number but zero are computed operator by operator, unless the operands are too small for a score that is
    infinite: then the values are zeros. On a GPU the look would wait for the device, so there zeros stay.

    The function takes the operands, the operator's result, the rows `[b, h, i, 1]` that a mask hides from
    every key, and what was added to the scores.
    """
    import torch

    by_operators = _oracle(spec)

    def exact(inputs: Sequence[Tensor], out: Tensor, hidden: Tensor | None, bias: Tensor | None) -> Tensor:
        q, k = inputs[:2]
        if out.device.type != "cpu" or not (out.numel() and k.numel()):
            return out
        if float(torch.linalg.vector_norm(out[..., 0], -torch.inf)) > 0:  # the least magnitude
            return out
        doubtful = ~(out.abs() > 0).any(-1, keepdim=True)
        if hidden is not None:
            doubtful &= ~hidden
        if not bool(doubtful.any()):
            return out
        product = float(q.abs().amax()) * float(k.abs().amax()) * spec.d_k * max(1.0, abs(scale))
        if product < _FINITE and (bias is None or bool((bias < torch.inf).all())):
            return out
        return torch.where(doubtful, by_operators(inputs), out)

    return exact


def _rows(spec: Rows) -> Function:
    import torch

    if len(spec.inputs) == 1 and str(_softmax_of(spec)) == str(spec):
        dtype = spec.outputs[0].dtype.to_torch()
        inside = torch.float64 if spec.inputs[0].dtype is DType.F64 else torch.float32
        return lambda inputs: torch.softmax(inputs[0], -1, dtype=inside).to(dtype)
    return _oracle(spec)


def _softmax_of(spec: Rows) -> Rows:
    """Softmax over the Spec's first input, as the recogniser writes it."""
    from headrace.ir.spec import Output, Reduction

    x = Ref(spec.inputs[0].name)
    names = [r.name for r in spec.reductions]
    if len(names) != 2:
        names = ["m", "s"]
    top = call("exp", call("sub", x, Ref(names[0])))
    return Rows(
        inputs=spec.inputs,
        reductions=(Reduction(names[0], "max", x), Reduction(names[1], "sum", top)),
        outputs=(Output(spec.outputs[0].dtype, call("div", top, Ref(names[1]))),),
        phi=spec.phi,
    )
