# ruff: noqa: E501  (the text of a Spec is one line)
"""torch.compile with headrace on a real GPU: results, one graph for all sizes, CUDA graphs, tuning.

`python -m pytest -m gpu` with a torch that sees a GPU; without one these tests fail. Nothing is timed.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from compiler_modules import LlamaNorm, SwiGlu, sdpa
from torch import nn
from torch._dynamo.utils import counters

from headrace.autotune.db.store import Store
from headrace.autotune.report import Task
from headrace.autotune.tuner import tune
from headrace.compiler import backend
from headrace.compiler.devices import device_of
from headrace.compiler.scopes import RUNTIME
from headrace.ir.dtype import DType
from headrace.ir.spec import parse_spec
from headrace.ir.tolerance import bound

pytestmark = pytest.mark.gpu
LENGTH, WIDTH, HEADS, KV_HEADS, HEAD = 2048, 512, 8, 2, 64
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class Block(nn.Module):
    """A Llama layer for M tokens of one sequence over a static cache."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(WIDTH, HEADS * HEAD, bias=False)
        self.k = nn.Linear(WIDTH, KV_HEADS * HEAD, bias=False)
        self.v = nn.Linear(WIDTH, KV_HEADS * HEAD, bias=False)
        self.o = nn.Linear(HEADS * HEAD, WIDTH, bias=False)
        self.norms = nn.ModuleList([LlamaNorm(WIDTH), LlamaNorm(WIDTH)])
        self.mlp = SwiGlu(WIDTH, 1024)

    def forward(
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, last: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x `[M, WIDTH]`, cache `[1, KV_HEADS, LENGTH, HEAD]`, last `[M]`: the last key that a row sees."""
        m = x.shape[0]
        y = self.norms[0](x)
        q = self.q(y).view(m, HEADS, HEAD).transpose(0, 1)[None]
        visible = torch.arange(keys.shape[2], device=x.device)[None] <= last[:, None]
        attended = sdpa(q, keys, values, attn_mask=visible[None, None], enable_gqa=True)
        x = x + self.o(attended[0].transpose(0, 1).reshape(m, HEADS * HEAD))
        return x + self.mlp(self.norms[1](x)), self.k(y), self.v(y)


@pytest.fixture
def where() -> torch.device:
    assert torch.cuda.is_available(), "these tests need a GPU and a torch that sees it"
    return torch.device("cuda", torch.cuda.current_device())


def operands(rows: int, where: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
    cache = [torch.randn(1, KV_HEADS, LENGTH, HEAD, device=where).to(dtype) for _ in range(2)]
    x = torch.randn(rows, WIDTH, device=where).to(dtype)
    last = torch.randint(0, LENGTH, (rows,), device=where)
    if rows > 1:  # 0 and 1 are sizes of their own for torch.compile
        torch._dynamo.mark_dynamic(x, 0)
        torch._dynamo.mark_dynamic(last, 0)
    return [x, *cache, last]


def hold(got: tuple[torch.Tensor, ...], model: nn.Module, inputs: list[torch.Tensor], dtype: DType) -> None:
    """Within twice eager's own error of a float64 computation, as the tolerance table says."""
    exact = copy.deepcopy(model).double()(*(t.double() if t.is_floating_point() else t for t in inputs))
    for mine, own, right in zip(got, model(*inputs), exact, strict=True):
        assert mine.is_cuda
        limit = bound(dtype, float((own - right).abs().max()), float(right.abs().max()))
        assert float((mine - right).abs().max()) <= limit


@pytest.mark.parametrize("graphs", [False, True], ids=["launches", "graphs"])
@pytest.mark.parametrize("name", DTYPES)
def test_a_layer_is_right_for_every_number_of_rows_in_two_compilations(
    name: str, graphs: bool, where: torch.device, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Block().to(where).to(DTYPES[name]).eval()
    options = {"claim": "all", "strict": True, "tuning": "off", "triton.cudagraphs": graphs}
    function = torch.compile(model, backend=backend.backend, options=options)
    RUNTIME.forget()
    counters.clear()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="headrace")
        for rows in (8, 1, 2, 3, 16, 17, 64, 200, 256, 1, 8):
            inputs = operands(rows, where, DTYPES[name])
            for _ in range(3):  # with CUDA graphs: a warm-up, a recording, a replay
                got = tuple(result.clone() for result in function(*inputs))
                hold(got, model, inputs, DType(name))
    assert counters["stats"]["unique_graphs"] <= 2
    assert [len(record.unclaimed) for record in backend.records().recent()] == [0, 0]
    assert not [d for d in RUNTIME.decisions() if "failed" in d.reason]


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("Gemm{x=bf16; weights=[w0:bf16[4096,4096]nk]; extras=[]; outputs=[bf16 = acc_w0]; batched=false}", (8,)),
        (
            "Attention{q=bf16; k=bf16; v=bf16; out=bf16; heads=[32, 8, 8]; dims=[128, 128]; score=mul(s, 0.088); "
            "mask=le(j, add(i, p)); normalizer=exp/sum/online; safe=false; extras=[p:i64[]]}",
            (1, 1, 4096),
        ),
    ],
)  # fmt: skip
def test_no_candidate_of_a_tuning_run_is_wrong_or_crashes(
    text: str, sizes: tuple[int, ...], where: torch.device, tmp_path: Path
) -> None:
    device = device_of(torch.empty(0, device=where))
    with Store.open(tmp_path / "results.db") as store:
        report = tune([Task(parse_spec(text), sizes)], device, store, 60.0)
    (result,) = report.results
    assert result.answer is not None
    assert result.trials > 2
    assert not {"wrong", "crashed"} & set(result.failures)
