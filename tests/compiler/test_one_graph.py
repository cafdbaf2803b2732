"""One compiled graph for all numbers of rows and all lengths of the cache; regimes switch while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compiler_modules import LlamaNorm, SwiGlu, sdpa
from torch import nn
from torch._dynamo.utils import counters

from headrace.autotune.db.rows import Check, Observation, Policy, Verdict, race_of
from headrace.autotune.db.store import Store
from headrace.autotune.keys import environment, numerics
from headrace.autotune.registry import Codegen
from headrace.compiler import backend
from headrace.compiler.devices import host_device
from headrace.compiler.scopes import RUNTIME
from headrace.ir.schedule import LIBRARY
from headrace.ir.spec import Gemm, parse_spec

LENGTH = 8192
ROWS = (8, 2, 3, 33, 1, 5, 16, 64, 100, 256)
KEYS = tuple(1 << e for e in range(14))  # 1, 2, 4 .. 8192
OPTIONS = {"claim": "all", "strict": True}


class Block(nn.Module):
    """A Llama layer for M tokens of one sequence over a static cache of LENGTH keys."""

    def __init__(self, width: int = 64, heads: int = 4, kv_heads: int = 2, head: int = 16) -> None:
        super().__init__()
        self.heads, self.head = heads, head
        self.q = nn.Linear(width, heads * head, bias=False)
        self.k = nn.Linear(width, kv_heads * head, bias=False)
        self.v = nn.Linear(width, kv_heads * head, bias=False)
        self.o = nn.Linear(heads * head, width, bias=False)
        self.norms = nn.ModuleList([LlamaNorm(width), LlamaNorm(width)])
        self.mlp = SwiGlu(width, 96)

    def forward(
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, last: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x `[M, width]`, cache `[1, kv_heads, LENGTH, head]`, last `[M]`: the last key that a row sees."""
        m = x.shape[0]
        y = self.norms[0](x)
        q = self.q(y).view(m, self.heads, self.head).transpose(0, 1)[None]
        visible = torch.arange(keys.shape[2])[None] <= last[:, None]
        attended = sdpa(q, keys, values, attn_mask=visible[None, None], enable_gqa=True)
        x = x + self.o(attended[0].transpose(0, 1).reshape(m, self.heads * self.head))
        return x + self.mlp(self.norms[1](x)), self.k(y), self.v(y)


def write_regimes(path: Path, texts: set[str]) -> None:
    """Rows as measuring writes them: a GEMV wins up to M = 4, the flat product up to 24, then the library."""
    device, registry = host_device(), Codegen()
    with Store.open(path) as store:
        for text in texts:
            spec = parse_spec(text)
            flows = {flow.name: flow for flow in registry.dataflows(spec, (4,), device)}
            times = {
                flows["gemv"].default(spec, (4,), device): lambda m: 1e-6 * (1 if m <= 4 else 9),
                flows["flat"].default(spec, (16,), device): lambda m: 1e-6 * (2 if m <= 24 else 9),
                LIBRARY: lambda m: 3e-6,
            }
            for m in (1, 2, 4, 8, 16, 24, 32, 64, 128, 256):
                samples = {schedule: (time(m),) * 9 for schedule, time in times.items()}
                race = race_of(list(samples.values()))
                store.append(
                    Observation(
                        text, (m,), numerics(device), str(schedule), registry.digest(schedule.dataflow),
                        environment(device), Policy(cache="cold"), Verdict.OK, run,
                        Check((0,), "float64", 2, 0.0, 1.0), race=race,
                    )
                    for schedule, run in samples.items()
                )  # fmt: skip


def test_one_graph_serves_every_size_and_regimes_switch_at_run_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model, database = Block().eval(), tmp_path / "results.db"
    options = {**OPTIONS, "database": str(database)}
    function = torch.compile(model, backend=backend.backend, options=options)
    keys, values = torch.randn(1, 2, LENGTH, 16), torch.randn(1, 2, LENGTH, 16)

    def step(rows: int, length: int) -> None:
        x, last = torch.randn(rows, 64), torch.arange(rows) % length
        last[-1] = length - 1
        if rows > 1:  # 0 and 1 are sizes of their own for torch.compile
            torch._dynamo.mark_dynamic(x, 0)
            torch._dynamo.mark_dynamic(last, 0)
        with torch.no_grad():
            got, want = function(x, keys, values, last), model(x, keys, values, last)
        for mine, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=2e-4)

    RUNTIME.forget()
    counters.clear()
    for rows in (8, 1, 64):
        step(rows, 100)
    assert counters["stats"]["unique_graphs"] == 2
    assert [len(record.unclaimed) for record in backend.records().recent()] == [0, 0]
    products = {d.spec for d in RUNTIME.decisions() if isinstance(parse_spec(d.spec), Gemm)}
    assert {d.regime.rpartition(" ")[2] for d in RUNTIME.decisions() if d.spec in products} == {"(model)"}

    write_regimes(database, products)
    RUNTIME.forget()
    with caplog.at_level("INFO", logger="headrace.compiler.decisions"):
        for rows, length in zip(ROWS, KEYS, strict=False):
            step(rows, length)
        for length in KEYS[len(ROWS) :]:
            step(256, length)
        step(1, LENGTH)
    assert counters["stats"]["unique_graphs"] == 2
    decided = [d for d in RUNTIME.decisions() if d.spec in products]
    for text in products:
        # Where M falls into a regime and a bucket that were seen before, there is no new decision.
        mine = {d.sizes[0]: d for d in decided if d.spec == text}
        assert {m: d.schedule.partition("{")[0] for m, d in mine.items()} == {
            1: "gemv", 2: "gemv", 3: "gemv", 8: "flat", 16: "flat",
            33: "library", 100: "library", 256: "library",
        }  # fmt: skip
        assert mine[8].regime == "regime 5..25 of 3 (measured)"
        assert mine[256].regime == "regime 26..256 of 3 (measured)"
    tables = [record for record in caplog.records if "M1 = 5" in record.getMessage()]
    assert len(tables) == len(products)  # one table a Spec, asked for once and logged
