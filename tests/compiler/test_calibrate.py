"""Calibration from data to licence: what is recorded, what is refused, what a compiled model then does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compiler_modules import Heads, LlamaBlock
from torch import Tensor, nn

import headrace
from headrace.autotune.db.calibrations import HeadRow
from headrace.autotune.db.file import SqliteFile
from headrace.autotune.db.store import Store
from headrace.compiler import licences, observe
from headrace.compiler.calibrate import calibrate, choose_phi
from headrace.compiler.cli.subject import Subject
from headrace.compiler.cli.trace import trace
from headrace.compiler.notices import HeadraceWarning
from headrace.compiler.observe import SiteStatistics
from headrace.compiler.options import Options
from headrace.errors import CalibrationError, DatabaseRefused, UnknownOption
from headrace.ir.evaluate import evaluate_spec
from headrace.ir.spec import Attention, parse_spec


@pytest.fixture
def database(tmp_path: Path) -> str:
    return str(tmp_path / "results.db")


def batches(*lengths: int, seed: int = 0) -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(2, length, 32, generator=generator),) for length in lengths]


class Stack(nn.Module):
    """Attentions in a row whose scores are multiplied by a factor each."""

    def __init__(self, *factors: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Heads(self._attend(factor), 2, 2, 16) for factor in factors)

    @staticmethod
    def _attend(factor: float) -> Callable[..., Tensor]:
        return lambda q, k, v: F.scaled_dot_product_attention(
            F.layer_norm(q, (16,)), F.layer_norm(k, (16,)), v, is_causal=True, scale=factor / 4
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def rows_of(
    model: nn.Module, database: str, data: list[tuple[Tensor]], **options: Any
) -> tuple[HeadRow, ...]:
    return calibrate(model.eval(), data, name="mine", database=database, **options).rows


# The counting attention


SPECS = {
    "grouped heads, causal": (
        "heads=[4, 2, 2]; dims=[16, 8]; score=mul(s, 0.25); mask=le(j, i); normalizer=exp/sum/online; "
        "safe=false; extras=[]", ()),
    "a cache, a bias and a soft-cap": (
        "heads=[4, 4, 2]; dims=[16, 8]; score=add(mul(tanh(s), 5.0), e1); mask=le(j, add(i, e0)); "
        "normalizer=exp/sum/online; safe=false; extras=[e0:i64[], e1:f32[hij]]",
        (torch.tensor(3), torch.randn(4, 7, 9))),
    "a mask per batch, rows that see nothing": (
        "heads=[4, 4, 4]; dims=[16, 8]; score=s; mask=e0; normalizer=exp/sum/online; safe=true; "
        "extras=[e0:b8[bj]]",
        (torch.tensor([[True] * 5 + [False] * 4, [False] * 9]),)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("block", [1 << 22, 64])
@pytest.mark.parametrize("name", SPECS)
def test_counting_does_not_change_the_result(
    name: str, block: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "BLOCK", block)
    rest, extras = SPECS[name]
    spec = parse_spec(f"Attention{{q={dtype}; k={dtype}; v={dtype}; out={dtype}; {rest}}}")
    assert isinstance(spec, Attention)
    torch.manual_seed(0)
    made = [torch.randn(2, heads, n, d) for heads, n, d in
            ((spec.heads, 7, 16), (spec.k_heads, 9, 16), (spec.v_heads, 9, 8))]  # fmt: skip
    inputs = [tensor.to(spec.q.to_torch()) for tensor in made] + list(extras)
    statistics = SiteStatistics("site", "form", spec.heads)
    found = observe.observed(spec, statistics)(*inputs)
    (wanted,) = evaluate_spec(spec, inputs)
    tolerance = 1e-5 if dtype == "f32" else 2e-2
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
    seen = sum(statistics.sums.values())
    assert seen == (4 * 7 if "nothing" in name else 2 * 4 * 7)


def test_statistics_are_those_of_the_scores() -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 50, 40) * torch.tensor([1.0, 8.0])[:, None, None] + 3
    scores = scores.masked_fill(torch.arange(40) > torch.arange(50)[:, None], -torch.inf)
    statistics = SiteStatistics("site", "form", 2)
    for part in scores.split(7, dim=1):
        statistics.add(part)
    for head in range(2):
        shown = scores[head][scores[head] > -torch.inf].double()
        assert statistics.lows[0, head] == shown.min()
        assert statistics.highs[0, head] == shown.max()
        assert statistics.lows[1, head] == scores[head].amax(-1).min()
        sums = scores[head].double().logsumexp(-1)
        assert statistics.highs[2, head] == pytest.approx(float(sums.max()))
        for share, upper in (
            (1e-4, False),
            (1e-4, True),
            (0.05, False),
            (0.05, True),
            (0.4, False),
            (0.6, True),
        ):
            found = statistics.quantile(head, share, upper=upper)
            outside = (shown > found) if upper else (shown < found)
            assert outside.double().mean() <= share
            inward = found - 0.02 * abs(found) - 0.01 if upper else found + 0.02 * abs(found) + 0.01
            assert ((shown > inward) if upper else (shown < inward)).double().mean() >= share - 1 / len(shown)
    lengths = {length for _, length, _ in statistics.sums}
    assert lengths == {0, 1, 2, 3, 4, 5, 6}
    assert sum(statistics.sums.values()) == 100


def test_a_lowest_number_instead_of_minus_infinity_counts_as_hidden() -> None:
    scores = torch.randn(1, 4, 8)
    scores[..., 5:] += torch.finfo(torch.float32).min
    statistics = SiteStatistics("site", "form", 1)
    statistics.add(scores)
    assert statistics.lows[0, 0] == scores[..., :5].min()
    assert {length for _, length, _ in statistics.sums} == {3}


def test_a_row_hidden_by_lowest_numbers_alone_falls_back() -> None:
    statistics = SiteStatistics("site", "form", 1)
    statistics.add(torch.full((1, 2, 8), torch.finfo(torch.float32).min))
    statistics.add(torch.zeros(1, 6, 8))
    phi = choose_phi(statistics, 16)
    assert phi == 0
    assert sum(count for (_, _, at), count in statistics.sums.items() if abs(at) > 60) == 2


# Phi


def with_sums(*heads: list[float]) -> SiteStatistics:
    statistics = SiteStatistics("site", "form", len(heads))
    for head, sums in enumerate(heads):
        for value in sums:
            statistics.sums[(head, 3, math.floor(value))] += 1
    return statistics


@pytest.mark.parametrize(
    ("heads", "step", "phi"),
    [
        ([[-59.0, 0.0, 59.0]], 16, 0),
        ([[30.0, 70.0, 100.0]], 16, 64),
        ([[-100.0, -90.0]], 16, -96),
        ([[-100.0, -90.0]], 1, -95),
        ([[0.0] * 9, [100.0] * 9], 16, 48),
        ([[0.0] * 99 + [300.0], [0.0]], 16, 0),
        ([[150.0] * 3, [-150.0] * 3 + [150.0]], 16, 96),
        ([[-500.0, 363.0]], 16, 368),
    ],
)
def test_phi_is_the_multiple_with_the_fewest_fallbacks(heads: list[list[float]], step: int, phi: int) -> None:
    statistics = with_sums(*heads)
    found = choose_phi(statistics, step)
    assert found % step == 0

    def cost(phi: int) -> tuple[float, int]:
        out = [[not -60 <= math.floor(value) - phi < 60 for value in sums] for sums in heads]
        return max(sum(each) / len(each) for each in out), sum(map(sum, out))

    assert cost(found) == min(cost(candidate) for candidate in range(-640 // step * step, 641, step))
    assert cost(found) == cost(phi)
    if cost(0) == cost(found):
        assert found == 0


# From data to the database


def test_a_model_is_calibrated_and_its_rows_are_in_the_database(database: str) -> None:
    found = calibrate(Stack(1.0, 2.0).eval(), batches(4, 9, 17), name="mine", database=database)
    assert found.batches == 3
    assert [(row.site, row.head) for row in found.rows] == [
        ("layers.0", 0), ("layers.0", 1), ("layers.1", 0), ("layers.1", 1),
    ]  # fmt: skip
    assert {row.rows for row in found.rows} == {2 * (4 + 9 + 17)}
    assert all(row.phi == 0 and row.fallback_rows == 0 for row in found.rows)
    assert sum(part.rows for part in found.rows[0].lengths) == found.rows[0].rows
    assert Store.open(Path(database)).calibrations("mine") == found.rows


def test_recorded_ranges_are_those_of_the_model(database: str) -> None:
    model = Stack(3.0).eval()
    (x,) = batches(12)[0]
    with torch.no_grad():
        layer = model.layers[0]
        q, k = (
            F.layer_norm(p(x).view(2, 12, 2, 16).transpose(1, 2), (16,)).double() for p in (layer.q, layer.k)
        )
        scores = (q @ k.mT * 0.75).masked_fill(torch.ones(12, 12).triu(1).bool(), -torch.inf)
    found = rows_of(model, database, [(x,)])
    for row in found:
        shown = scores[:, row.head][scores[:, row.head] > -torch.inf]
        assert row.score_min == pytest.approx(float(shown.min()), rel=1e-5)
        assert row.score_max == pytest.approx(float(shown.max()), rel=1e-5)
        assert row.peak_min == pytest.approx(float(scores[:, row.head].amax(-1).min()), rel=1e-5)
        assert row.sum_max == pytest.approx(float(scores[:, row.head].logsumexp(-1).max()), rel=1e-5)


def test_scores_as_wide_as_opts_are_refused_by_themselves(database: str) -> None:
    """FlashDecoding++ measured -496.8 ... 363.5 for OPT-6.7B and left the unified maximum out by hand."""
    model = Stack(1.0, 140.0, 1.0).eval()
    found = rows_of(model, database, batches(32, 48))
    wide = [row for row in found if row.site == "layers.1"]
    assert min(row.score_min for row in wide) < -360
    assert max(row.score_max for row in wide) > 360
    granted = [each.granted for _, each in enumerate(licences.licences("mine", found).graphs[0][1])]
    assert granted == [True, False, True]
    with torch.no_grad():
        compiled = torch.compile(
            model, backend="headrace",
            options={"calibration": "mine", "database": database, "strict": True, "tuning": "off"},
        )  # fmt: skip
        (x,) = batches(20, seed=1)[0]
        report = headrace.explain(compiled)(x)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-3, atol=1e-3)
    attentions = [claim for claim in report.claims if claim.kind == "Attention"]
    assert [claim.site for claim in attentions] == ["layers.0", "layers.1", "layers.2"]
    assert ["unified(0)" in claim.spec for claim in attentions] == [True, False, True]
    assert "would fall back" in attentions[1].note
    assert "would fall back" in str(report)


def test_the_same_licences_hold_for_other_lengths_and_not_for_another_model(database: str) -> None:
    rows_of(Stack(1.0, 1.0), database, batches(8, 16))
    options = Options(calibration="mine", database=database, strict=True, tuning="off")
    for model, permitted, why in (
        (Stack(1.0, 1.0), True, "permitted"),
        (Stack(1.0), False, "it has 2 attention sites, this graph has 1"),
        (LlamaBlock(), False, "it has 2 attention sites, this graph has 1"),
    ):
        traced = trace(Subject("model", model.eval(), batches(23, seed=3)[0]), options)
        claims = [claim for graph in traced.graphs for claim in graph.claims]
        attentions = [claim for claim in claims if claim.kind == "Attention"]
        assert attentions
        for claim in attentions:
            assert ("unified(" in claim.spec) is permitted
            assert why in claim.note


def test_calibrating_again_changes_the_key_of_compiled_graphs(database: str) -> None:
    from headrace.compiler.rewrite import fingerprint

    options = Options(calibration="mine", database=database)
    keys = {fingerprint(options, "")}
    for factor in (1.0, 60.0):
        rows_of(Stack(factor), database, batches(24))
        keys.add(fingerprint(options, licences.load(options).digest))
    assert len(keys) == 3
    assert licences.load(Options(database=database)).digest == ""


def test_an_unknown_calibration_is_the_users_mistake(database: str) -> None:
    rows_of(Stack(1.0), database, batches(4))
    with pytest.raises(UnknownOption, match=r"no calibration 'mien'.*did you mean 'mine'"):
        licences.load(Options(calibration="mien", database=database))


def test_a_file_that_is_no_database_is_refused_as_one(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("no database")
    with pytest.raises(DatabaseRefused, match="no database"):
        licences.load(Options(calibration="mine", database=str(other)))


def test_a_calibration_that_lost_a_head_permits_nothing(database: str) -> None:
    found = rows_of(Stack(1.0, 1.0), database, batches(4))
    assert len(licences.licences("mine", found).graphs) == 1
    for at in range(len(found)):
        assert licences.licences("mine", [*found[:at], *found[at + 1 :]]).graphs == ()
    other = dataclasses.replace(found[1], phi=16)
    assert licences.licences("mine", [found[0], other, *found[2:]]).graphs == ()


def test_the_worst_head_decides(database: str) -> None:
    found = rows_of(Stack(1.0), database, batches(50))
    worse = dataclasses.replace(found[1], fallback_rows=1)  # 1 of 100, and 1 of 200 over both heads
    ((_, (licence,)),) = licences.licences("mine", [found[0], worse]).graphs
    assert licence.rate == 0.01


# Bad input: an error, and nothing is recorded


def nan_scores(data: list[tuple[Tensor]]) -> list[tuple[Tensor]]:
    data[1][0][0, 3, 4] = math.nan
    return data


class Infinite(Stack):
    """Scores overflow float32."""

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x * 1e30, x * 1e30, x)


class NanResult(Stack):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - torch.inf + torch.inf


class Flat(Stack):
    """Returns a constant for a batch without keys."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.shape[1] else x.new_zeros(1)


BAD: dict[str, tuple[nn.Module, Callable[[], list[tuple[Tensor]]], dict[str, Any], str]] = {
    "no data": (Stack(1.0), list, {}, "no data"),
    "a batch without arguments": (Stack(1.0), lambda: [()], {}, "batch 1 is empty"),
    "a batch that the model cannot take": (
        Stack(1.0), lambda: [*batches(8), (batches(8)[0][0][:, :0],)], {},
        r"batch 2 is empty, .*shape \(2, 0, 32\)",
    ),
    "a batch of no keys": (
        Flat(1.0), lambda: [*batches(8), (batches(8)[0][0][:, :0],)], {}, "batch 2: no query .* sees a key"
    ),
    "NaN data": (Stack(1.0), lambda: nan_scores(batches(8, 8)), {}, "batch 2: layers.0, head 0: a score is"),
    "infinite scores": (Infinite(1.0), lambda: [(batches(8)[0][0][:, None],)], {}, "a score is infinite"),
    "a NaN result": (NanResult(1.0), lambda: batches(8), {}, "batch 1: the model's result holds NaN"),
    "no attention": (nn.Linear(32, 32), lambda: batches(8), {}, "no attention that headrace recognises"),
    "a name with a slash": (Stack(1.0), lambda: batches(8), {"name": "a/b"}, "cannot be called 'a/b'"),
    "a limit above one": (Stack(1.0), lambda: batches(8), {"limit": 1.5}, "share of rows"),
    "a limit that is NaN": (Stack(1.0), lambda: batches(8), {"limit": math.nan}, "share of rows"),
    "a step of nothing": (Stack(1.0), lambda: batches(8), {"step": 0}, "multiple of 1 to 60"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_an_error_and_nothing_is_recorded(name: str, database: str) -> None:
    model, data, options, message = BAD[name]
    rows_of(Stack(2.0), database, batches(4))
    before = Store.open(Path(database)).calibrations()
    with pytest.raises(CalibrationError, match=message):
        calibrate(model.eval(), data(), database=database, **{"name": "mine", **options})
    assert Store.open(Path(database)).calibrations() == before


def test_a_database_that_cannot_be_written_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: SqliteFile) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(SqliteFile, "_create", refused)
    ran: list[int] = []

    def model(x: Tensor) -> Tensor:
        ran.append(1)
        return x

    with (
        pytest.warns(HeadraceWarning, match="database"),
        pytest.raises(CalibrationError, match="cannot be written"),
    ):
        calibrate(model, batches(4), name="mine", database=str(tmp_path / "db"))
    assert ran == []


def test_a_write_that_fails_at_the_end_is_told(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: SqliteFile, rows: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SqliteFile, "put_calibrations", fail)
    with (
        pytest.warns(HeadraceWarning, match="database"),
        pytest.raises(CalibrationError, match="is not recorded"),
    ):
        rows_of(Stack(1.0), database, batches(4))
