"""The order in which products of few rows ask for what the next iteration of their loop reads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from headrace.codegen.cpu import target
from headrace.codegen.cpu.vector.dot.spread import Spread
from headrace.codegen.cpu.vector.dot.upcoming import Share
from headrace.codegen.dataflows import get
from headrace.codegen.kernel import Kernel, instantiate
from headrace.compiler.devices import host_device
from headrace.ir.spec import parse_spec


class _Numbers:
    """A context whose names are numbers."""

    @property
    def e(self) -> _Numbers:
        return self

    def pure(self, text: str, names: tuple[str, ...]) -> str:
        operation, _, a, b = text.replace(",", "").split()
        operations: dict[str, Callable[[int, int], int]] = {
            "udiv": lambda x, y: x // y,
            "urem": lambda x, y: x % y,
        }
        return str(operations[operation](int(a), int(b)))

    def gep(self, element: str, pointer: str, offset: str) -> str:
        return str(int(pointer) + int(offset))

    def hidden(self, pointer: str) -> str:
        return pointer

    def mul(self, a: str, b: str) -> str:
        return str(int(a) * int(b))

    def add(self, a: str, b: str) -> str:
        return str(int(a) + int(b))


def _asked(tiles: tuple[Spread, ...], turns: int, further: tuple[int, ...]) -> Counter[int]:
    """How often each address is asked for in all turns of as many products as there are tiles."""
    parts = len(tiles)
    shares = [Share(cast(Any, _Numbers()), tiles, part, parts, further) for part in range(parts)]
    return Counter(int(line) for share in shares for turn in range(turns) for line in share(str(turn), turns))


def _lines(tile: Spread, rows: int = 0) -> list[int]:
    """The addresses of all lines, ``rows`` rows further on."""
    starts = [int(tile.base) + (row + rows) * int(tile.stride) for row in range(tile.rows)]
    return [start + 64 * line for start in starts for line in range(tile.lines)]


@pytest.mark.parametrize(
    ("rows", "lines", "stride"), [(64, 4, 256), (128, 4, 1024), (16, 1, 64), (32, 8, 512)]
)
@pytest.mark.parametrize("turns", [1, 4, 16, 128])
def test_every_line_is_asked_for_equally_often(rows: int, lines: int, stride: int, turns: int) -> None:
    tile = Spread("0", str(stride), rows, lines)
    asked = _asked((tile,), turns, (0,))
    assert set(asked) == set(_lines(tile))
    assert set(asked.values()) == {max(1, turns // (rows * lines))}


@pytest.mark.parametrize("turns", [4, 16])
def test_products_of_one_loop_share_the_lines_of_all_its_tiles(turns: int) -> None:
    tiles = (Spread("0", "256", 32, 4), Spread("1000000", "1024", 32, 4), Spread("2000000", "512", 32, 8))
    asked = _asked(tiles[:2], turns, (0,))
    assert asked == Counter(_lines(tiles[0]) + _lines(tiles[1]))
    unequal = (tiles[0], tiles[2])
    assert _asked(unequal, turns, (0,)) == Counter(_lines(unequal[0]) + _lines(unequal[1]))


def test_lines_are_asked_for_again_as_their_turn_comes_near() -> None:
    tile = Spread("0", "256", 64, 4)
    assert _asked((tile,), 8, (3072, 1024, 0)) == Counter(_lines(tile, 12) + _lines(tile, 4) + _lines(tile))
    wide = Spread("0", "4096", 16, 64)
    assert _asked((wide,), 8, (3072, 1024, 0)) == Counter(_lines(wide, 1) + _lines(wide))


def test_one_turn_goes_back_and_forth_between_the_tiles() -> None:
    tiles = (Spread("0", "256", 32, 4), Spread("1000000", "256", 32, 4))
    share = Share(cast(Any, _Numbers()), tiles, 0, 2, further=(3072, 1024, 0))
    lines = [int(line) for line in share("1", 4)]
    runs = re.findall(r"0+|1+", "".join(str(line // 1000000) for line in lines))
    assert len(runs) == 8
    assert {len(run) for run in runs} == {12}


def _decode(key_heads: int, scale: str) -> Kernel:
    """A kernel that has just decoded."""
    spec = parse_spec(
        f"Attention{{q=bf16; k=bf16; v=bf16; out=bf16; heads=[4, {key_heads}, {key_heads}]; dims=[128, 128]; "
        f"score=mul(s, {scale}); mask=true; normalizer=exp/sum/online; safe=false; extras=[]}}"
    )
    sizes, device = (1, 1, 1024), host_device()
    kernel = instantiate(spec, get("decode").default(spec, sizes, device), device)
    q, (k, v) = torch.randn(1, 4, 1, 128).bfloat16(), torch.randn(2, 1, key_heads, 1024, 128).bfloat16()
    kernel([q, k, v])
    return kernel


needs_bf16 = pytest.mark.skipif(
    not target.host().has("avx512bf16"), reason="needs the bf16 products of AVX-512"
)


@needs_bf16
@pytest.mark.parametrize("key_heads", [1, 4])
def test_requests_of_decoding_stand_between_its_products(key_heads: int) -> None:
    (variant,) = _decode(key_heads, "0.0883")._variants.values()
    text = re.findall(r"prefetcht1|vdpbf16ps|\.LBB\w+:", variant.functions[0].asm)
    longest = max(len(run) for run in re.findall(r"p+", "".join(word[0] for word in text)))
    assert "prefetcht1" in text
    assert longest <= 3


@needs_bf16
@pytest.mark.parametrize("key_heads", [1, 4])
def test_either_product_of_decoding_asks_for_keys_and_values(
    key_heads: int, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    seen: set[tuple[int, int, int]] = set()
    asks = Share.__call__

    def recorded(share: Share, turn: str, turns: int) -> list[str]:
        seen.add((len(share.tiles), share.part, share.parts))
        return asks(share, turn, turns)

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(Share, "__call__", recorded)
    _decode(key_heads, f"0.07{key_heads}11")
    assert seen == {(2, 0, 2), (2, 1, 2)}
