# ruff: noqa: E501  (the text of a Spec is one line)
"""stream_decode: the arithmetic of its schedule, the same on the device, and results against the float64 oracle."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from codegen_cases import CPU, assert_close, instantiate, make

from headrace.codegen import dataflows, targets
from headrace.codegen.attention import stream
from headrace.codegen.attention.choices import ragged, split_count
from headrace.codegen.build import build
from headrace.codegen.kernel import Kernel
from headrace.ir.spec import Attention, parse_spec

LENGTHS = (1, 37, 4096, 65536)
WORKERS = (1, 7, 132)


def text(dtype: str = "f32", heads: str = "4, 2, 2", dims: str = "16, 16", score: str = "mul(s, 0.25)", mask: str = "lt(j, n)",
         normalizer: str = "exp/sum/online", safe: str = "false", extras: str = "n:i64[b]") -> str:  # fmt: skip
    return (
        f"Attention{{q={dtype}; k={dtype}; v={dtype}; out={dtype}; heads=[{heads}]; dims=[{dims}]; score={score}; "
        f"mask={mask}; normalizer={normalizer}; safe={safe}; extras=[{extras}]}}"
    )


def operands(
    spec_text: str, lengths: Sequence[int], queries: int = 1, keys: int = 0, seed: int = 0
) -> list[torch.Tensor]:
    made = make(parse_spec(spec_text), (len(lengths), queries, keys or max(lengths)), seed)
    made[3] = torch.tensor(lengths)
    return made


def hold(spec_text: str, inputs: list[torch.Tensor], **knobs: int | str) -> tuple[Kernel, torch.Tensor]:
    spec = parse_spec(spec_text)
    sizes = spec.sizes([t.shape for t in inputs])
    built = instantiate(spec_text, "stream_decode", sizes, **knobs)
    result = built(inputs)
    assert_close(spec, result, inputs)
    return built, result


# The schedule.


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 132, 1000])
@pytest.mark.parametrize(
    ("lengths", "units", "block_j"),
    [(LENGTHS, 8, 64), (LENGTHS, 3, 128), ((0, 0, 0), 2, 16), ((5,), 1, 16), ((64, 65, 63), 5, 64)],
)
def test_workers_share_all_tiles_evenly(
    lengths: tuple[int, ...], units: int, block_j: int, workers: int
) -> None:
    counts = stream.tile_counts(lengths, units, block_j)
    pieces = stream.schedule(counts, workers)
    assert len(pieces) == workers
    loads = [sum(s.last - s.first for s in segments) for segments in pieces]
    assert max(loads) - min(loads) <= 1
    line = [(s.unit, tile) for segments in pieces for s in segments for tile in range(s.first, s.last)]
    assert line == [(unit, tile) for unit, count in enumerate(counts) for tile in range(count)]


@pytest.mark.parametrize("workers", [2, 7, 132])
def test_only_a_workers_first_and_last_segment_can_be_partial(workers: int) -> None:
    for segments in stream.schedule(stream.tile_counts(LENGTHS, 8, 64), workers):
        assert all(s.whole for s in segments[1:-1])
        slots = [s.slot for s in segments if not s.whole]
        assert len(slots) == len(set(slots))
        assert all(s.slot == 0 for s in segments[:1] if s.first > 0)


def test_every_sequence_has_a_tile_so_that_its_rows_are_written() -> None:
    assert stream.tile_counts((0, 1, 16, 17), 2, 16) == (1, 1, 1, 1, 1, 1, 2, 2)


def _launched(built: Kernel, inputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Launch a kernel's functions by hand; its outputs and workspace, which held NaN and -9 before."""
    variant = next(iter(built._variants.values()))
    scope: dict[str, object] = dict(zip(variant.plan.operands, inputs, strict=True))
    for names, value in variant.plan.sizes:
        exec(f"{names} = {value}", scope)
    buffers = {}
    for buffer in (*variant.plan.outputs, *variant.plan.workspace):
        shape = [int(eval(part, scope)) for part in buffer.shape]
        fill = float("nan") if buffer.dtype.is_floating else -9
        buffers[buffer.name] = torch.full(shape, fill, dtype=buffer.dtype.to_torch())
    scope |= buffers | {"o_strides": buffers["o"].stride()}
    for launch, function in zip(variant.plan.launches, variant.functions, strict=True):
        values = [eval(p.host, scope) for p in launch.params]
        values = [v.data_ptr() if isinstance(v, torch.Tensor) else v for v in values]
        function.launch(*(int(eval(part, scope)) for part in launch.grid), *values)
    return buffers


@pytest.mark.parametrize("workers", [1, 2, 7, 40, 132])
@pytest.mark.parametrize("lengths", [(1, 37, 400, 0, 1000), (5, 5), (300,)])
def test_the_device_computes_the_same_schedule(lengths: tuple[int, ...], workers: int) -> None:
    spec_text = text(heads="8, 4, 4")
    inputs = operands(spec_text, lengths)
    built, result = hold(spec_text, inputs, workers=workers, block_j=16)
    found = _launched(built, inputs)
    counts = stream.tile_counts(lengths, 4, 16)
    assert found["count"].tolist() == list(counts)
    cut: list[list[int]] = []
    written = torch.zeros(workers, 2, dtype=torch.bool)
    pieces = stream.schedule(counts, workers)
    owner = {
        (s.unit, t): w for w, segments in enumerate(pieces) for s in segments for t in range(s.first, s.last)
    }
    for worker, segments in enumerate(pieces):
        for s in segments:
            if s.slot is not None:
                written[worker, s.slot] = True
        opened = [s.unit for s in segments if s.slot == 1]
        cut.append([opened[0], owner[opened[0], counts[opened[0]] - 1]] if opened else [-1, -1])
    assert [row[0] for row in found["cut"].tolist()] == [row[0] for row in cut]
    assert [row for row in found["cut"].tolist() if row[0] >= 0] == [row for row in cut if row[0] >= 0]
    assert torch.equal(~found["acc"].isnan().all(-1).all(-1), written)
    assert torch.equal(found["o"].nan_to_num(), result.nan_to_num())


# Results.


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("queries", [1, 2, 4])
def test_very_unequal_lengths(queries: int, workers: int) -> None:
    spec_text = text(heads="3, 1, 1")
    built, _ = hold(spec_text, operands(spec_text, LENGTHS, queries), workers=workers)
    assert built.launch_info["engine"] == ("vector",) * 3
    assert built.launch_info["engine_reason"] == ("",) * 3


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("heads", ["6, 2, 2", "5, 5, 5"])
def test_types_and_head_maps(heads: str, dtype: str, workers: int) -> None:
    spec_text = text(dtype, heads)
    hold(spec_text, operands(spec_text, (3, 211, 0, 64, 100), 2), workers=workers, block_j=32)


@pytest.mark.parametrize("workers", [3, 10, 50])
@pytest.mark.parametrize(
    ("heads", "dims"), [("6, 3, 2", "16, 16"), ("4, 1, 2", "24, 40"), ("2, 2, 2", "8, 64")]
)
def test_odd_head_maps_and_dimensions(heads: str, dims: str, workers: int) -> None:
    spec_text = text(heads=heads, dims=dims)
    hold(spec_text, operands(spec_text, (90, 1, 33)), workers=workers, block_j=16)


@pytest.mark.parametrize("block_r", [1, 2, 4, 16])
def test_rows_of_a_group_in_several_blocks(block_r: int) -> None:
    spec_text = text(heads="12, 2, 2", mask="lt(j, add(n, i))")
    hold(spec_text, operands(spec_text, (70, 3), 3, keys=90), workers=5, block_r=block_r, block_j=16)


@pytest.mark.parametrize(("dtype", "error"), [("f32", 1e-6), ("bf16", 4e-3)])
def test_the_answer_is_the_same_for_every_number_of_workers(dtype: str, error: float) -> None:
    spec_text = text(dtype, "8, 4, 4")
    inputs = operands(spec_text, (700, 1, 64, 350))
    alone = hold(spec_text, inputs, workers=1)[1]
    for workers in (2, 3, 7, 16, 132, 5000):
        result = hold(spec_text, inputs, workers=workers, block_j=16)[1]
        torch.testing.assert_close(result, alone, rtol=error, atol=error)


@pytest.mark.parametrize("workers", WORKERS)
def test_the_same_bits_every_time(workers: int) -> None:
    spec_text = text(heads="8, 4, 4")
    inputs = operands(spec_text, (700, 1, 64, 350))
    built, first = hold(spec_text, inputs, workers=workers, block_j=16)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert all(torch.equal(built(inputs), first) for _ in range(5))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("safe", ["false", "true"])
@pytest.mark.parametrize("workers", WORKERS)
def test_a_sequence_without_keys(workers: int, safe: str) -> None:
    spec_text = text(safe=safe)
    out = hold(spec_text, operands(spec_text, (0, 130, 0, -3)), workers=workers)[1]
    for empty in (out[0], out[2], out[3]):
        assert (empty == 0).all() if safe == "true" else empty.isnan().all()


def test_no_sequence_at_all() -> None:
    spec_text = text()
    built = instantiate(spec_text, "stream_decode", (2, 1, 64))
    inputs = operands(spec_text, (3, 64))
    assert built(inputs).shape == (2, 4, 1, 16)
    assert built([inputs[0][:0], inputs[1][:0], inputs[2][:0], inputs[3][:0]]).shape == (0, 4, 1, 16)


@pytest.mark.parametrize("queries", [1, 3])
def test_keys_beyond_a_length_are_never_read(queries: int) -> None:
    spec_text = text(mask="lt(j, add(n, i))")
    lengths = (1, 37, 90, 64)
    inputs = operands(spec_text, lengths, queries, keys=128)
    built, expected = hold(spec_text, inputs, workers=7, block_j=16)
    for operand in inputs[1:3]:
        for b, n in enumerate(lengths):
            operand[b, :, n + queries - 1 :] = torch.nan
    assert torch.equal(built(inputs), expected)


@pytest.mark.parametrize(
    ("mask", "extras"),
    [("le(j, add(i, p))", "p:i64[]"), ("true", "p:i64[]"), ("and(lt(j, n), ge(j, sub(n, 40)))", "n:i32[b]"),
     ("and(lt(j, n), ne(mod(j, 3), 0))", "n:i64[b]"), ("and(le(j, add(i, n)), keep)", "n:i64[b], keep:b8[bj]"),
     ("lt(j, n)", "n:i64[bh]"), ("lt(j, n)", "n:i64[bi]")],
)  # fmt: skip
@pytest.mark.parametrize("workers", [1, 5, 33])
def test_masks(mask: str, extras: str, workers: int) -> None:
    spec_text = text(mask=mask, extras=extras)
    inputs = make(parse_spec(spec_text), (3, 3, 150))
    generator = torch.Generator().manual_seed(2)
    inputs[3] = torch.randint(1, 140, inputs[3].shape, generator=generator).to(inputs[3].dtype)
    hold(spec_text, inputs, workers=workers, block_j=16)


@pytest.mark.parametrize("position", [-5, -1, 0, 33, 500, 1 << 40])
def test_a_position_of_any_size(position: int) -> None:
    spec_text = text(mask="le(j, add(i, p))", extras="p:i64[]")
    inputs = make(parse_spec(spec_text), (1, 1, 77))
    inputs[3] = torch.tensor(position)
    hold(spec_text, inputs, workers=7, block_j=16)


@pytest.mark.parametrize(
    "normalizer",
    ["sigmoid/none/none", "identity/none/none", "identity/sum/none", "exp/sum/none", "exp/none/online"],
)
@pytest.mark.parametrize("workers", [1, 7])
def test_normalizers(normalizer: str, workers: int) -> None:
    score = "add(abs(s), 1.0)" if normalizer.startswith("identity") else "mul(s, 0.25)"
    spec_text = text(normalizer=normalizer, score=score)
    hold(spec_text, operands(spec_text, (90, 3, 40)), workers=workers, block_j=16)


@pytest.mark.parametrize("workers", [1, 7])
def test_large_scores_do_not_overflow(workers: int) -> None:
    spec_text = text(score="mul(s, 40.0)")
    hold(spec_text, operands(spec_text, (200, 3, 77)), workers=workers, block_j=16)


# Stabilizers.

STABILIZERS = ("online", "lazy", "pair", "unified")
LICENSED = text(heads="6, 2, 2", normalizer="exp/sum/unified(0)")


@pytest.mark.parametrize(("queries", "dtype"), [(1, "bf16"), (2, "f32"), (4, "f16")])
@pytest.mark.parametrize("how", STABILIZERS)
def test_every_stabilizer_and_number_of_workers_agree(how: str, queries: int, dtype: str) -> None:
    spec_text = text(dtype, "6, 2, 2", mask="lt(j, add(n, i))", normalizer="exp/sum/unified(0)")
    inputs = operands(spec_text, (333, 1, 0, 64, 120), queries, keys=400)
    for workers in WORKERS:
        built, _ = hold(spec_text, inputs, stabilizer=how, workers=workers, block_j=16)
        assert built.fallback_rows == 0
        assert set(built.launch_info["engine"]) == {"vector"}


@pytest.mark.parametrize("shift", [50.0, -50.0, 150.0, -150.0])
@pytest.mark.parametrize("how", STABILIZERS)
def test_shifted_scores(how: str, shift: float) -> None:
    score = f"add(mul(s, 0.25), {shift})"
    spec_text = text(heads="6, 2, 2", score=score, normalizer="exp/sum/unified(0)")
    inputs = operands(spec_text, (333, 5, 0))
    for workers in WORKERS:
        built, _ = hold(spec_text, inputs, stabilizer=how, workers=workers, block_j=16)
        assert built.fallback_rows == (
            12 if how == "unified" and abs(shift) > 100 else 0
        )  # 2 sequences see keys


@pytest.mark.parametrize("queries", [1, 2, 4])
@pytest.mark.parametrize("workers", WORKERS)
def test_only_rows_out_of_range_are_recomputed(workers: int, queries: int) -> None:
    inputs = operands(LICENSED, (333, 5, 0, 90), queries)
    inputs[0][0, 1] *= 300.0  # one head of a long sequence, which workers share
    inputs[0][3, 4, -1] *= 300.0  # one row of a short one
    inputs[0][2] *= 300.0  # a sequence without keys
    built, _ = hold(LICENSED, inputs, stabilizer="unified", workers=workers, block_j=16)
    assert built.fallback_rows == queries + 1


def test_operands_in_another_layout_and_a_result_written_in_place() -> None:
    spec_text = text(heads="4, 2, 2")
    spec = parse_spec(spec_text)
    inputs = operands(spec_text, (50, 7))
    for at in (1, 2):  # keys before heads, as a cache may be laid out
        inputs[at] = inputs[at].transpose(1, 2).contiguous().transpose(1, 2)
    built, result = hold(spec_text, inputs, workers=7, block_j=16)
    into = torch.zeros(2, 4, 1, 16)
    built.into(inputs, [into])
    assert torch.equal(into, result)
    longer = operands(spec_text, (50, 7, 90, 1), 2)  # the same kernel at other sizes
    assert_close(spec, built(longer), longer)


# The registry.

RAGGED, EVEN = text("bf16", "32, 8, 8", "128, 128"), text("bf16", "32, 8, 8", "128, 128", mask="true")


def _offered(spec_text: str, sizes: tuple[int, ...], device=CPU) -> bool:
    return "stream_decode" in {
        flow.name for flow in dataflows.dataflows(parse_spec(spec_text), sizes, device)
    }


def test_offered_where_lengths_differ_or_heads_do_not_fill_the_device() -> None:
    h100 = targets.GPU_TARGETS["cuda:90"]
    assert _offered(RAGGED, (4, 1, 4096))
    assert _offered(RAGGED, (4, 4, 4096), h100)
    assert not _offered(RAGGED, (4, 64, 4096))  # prefill
    assert not _offered(RAGGED, (1, 1, 4096))  # one sequence has one length
    assert not _offered(EVEN, (4, 1, 4096))
    assert _offered(EVEN, (1, 1, 65536), h100)
    assert not _offered(EVEN, (64, 1, 65536), h100)


def test_lengths_are_seen_in_the_bounds_of_the_mask() -> None:
    for mask, extras, expected in (
        ("lt(j, n)", "n:i64[b]", True), ("and(keep, le(j, add(i, n)))", "n:i64[b], keep:b8[bj]", True),
        ("ge(j, n)", "n:i32[b]", True), ("keep", "n:i64[b], keep:b8[bj]", False),
        ("le(j, add(i, n))", "n:i64[]", False),
    ):  # fmt: skip
        spec = parse_spec(text(mask=mask, extras=extras))
        assert isinstance(spec, Attention)
        assert ragged(spec) is expected


@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx942"])
def test_the_default_schedule_builds_without_spills(target: str) -> None:
    spec = parse_spec(RAGGED)
    schedule = dataflows.get("stream_decode").default(spec, (4, 1, 65536), targets.device_of(target))
    made = build(spec, schedule, target, (4, 1, 65536))
    assert made.spills == 0
    assert {name for name, _ in made.kernels[1].resources.matrix} & {"HMMA", "HGMMA", "v_mfma_f32"}


# How often split keys are split.


@pytest.mark.parametrize(
    ("target", "blocks", "key_blocks", "expected"),
    [
        ("cuda:90", 106, 1000, 1),  # 132 units: 80 % filled
        ("cuda:90", 8, 4, 1),  # four blocks of keys are never split
        ("cuda:90", 8, 1000, 15),  # 120 of 132 in one wave; nothing is better by more than 15 %
        ("cuda:90", 8, 10, 9),  # ten parts at most, of which nine do as well
        ("cuda:90", 100, 1000, 5),  # 500 of 528 in four waves; fewer leave a wave too empty
        ("cuda:90", 1, 1000, 55),  # the most is 64, and 55 is within 15 % of it
        ("cuda:80", 8, 1000, 23),  # Ampere: two programs a unit, 184 of 216
    ],
)
def test_split_count_fills_waves(target: str, blocks: int, key_blocks: int, expected: int) -> None:
    device = targets.GPU_TARGETS[target]
    assert split_count(blocks, device, key_blocks) == expected


@pytest.mark.parametrize("blocks", range(1, 300, 7))
def test_split_count_is_the_least_of_the_good_ones(blocks: int) -> None:
    device = targets.GPU_TARGETS["cuda:90"]
    found = split_count(blocks, device, 512)

    def share(splits: int) -> float:
        return blocks * splits / device.units / -(-blocks * splits // device.units)

    if blocks >= 0.8 * device.units:
        assert found == 1
    else:
        best = max(map(share, range(1, 65)))
        assert share(found) >= 0.85 * best
        assert all(share(fewer) < 0.85 * best for fewer in range(1, found))


def test_a_cpu_splits_keys_until_its_threads_have_work() -> None:
    spec = parse_spec(text("bf16", "1, 1, 1", "64, 64", mask="true"))
    default = dataflows.get("decode").default(spec, (1, 1, 8192), CPU)
    assert dict(default.knobs)["splits"] == 2
