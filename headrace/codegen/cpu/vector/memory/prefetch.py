"""Prefetching what the next program will read.

A kernel over rows alternates between reading a row from memory and computing on it, and while it computes the
memory is idle. The next program of the same worker is program x + 1; where an address depends on x by a
constant step, that step gives the address that the next program reads. One prefetch per line goes into the
loop that has most work per element. Where a tile is read in one loop only, or all of them are light, the
hardware's prefetchers do better alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.codegen.cpu.vector.emit import Emitter, Frame

LINE = 64
# Instructions per element above which a loop leaves the memory idle.
_BUSY = 1.2


@dataclass(frozen=True)
class _Site:
    """A place where a line of ``tile`` is read. Twin frames are versions of one loop, of which one runs."""

    tile: int
    frame: Frame
    twin: int
    elements: int
    token: str
    text: str


class Prefetches:
    """Candidate places, decided upon when the whole function is written."""

    def __init__(self) -> None:
        self._sites: list[_Site] = []
        self.twin = 0

    def offer(self, e: Emitter, tile: int, pointer: str, ahead: str, size: int) -> None:
        """The line at ``pointer`` of a tile with elements of ``size`` bytes is read here; the next program's
        is ``ahead`` bytes further on."""
        count = len(self._sites)
        token = f"  ; ahead.{count}."
        text = (
            f"  %ahead{count} = getelementptr i8, ptr {pointer}, i64 {ahead}\n"
            f"  call void @llvm.prefetch.p0(ptr %ahead{count}, i32 0, i32 3, i32 1)"
        )
        e.declare("llvm.prefetch.p0", "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        e.top.lines.append(token)
        self._sites.append(_Site(tile, e.top, self.twin, LINE // size, token, text))

    def resolve(self, text: str) -> str:
        """The function's text with the chosen prefetches in place."""
        groups: dict[int, dict[tuple[int, int], list[_Site]]] = {}
        for site in self._sites:
            loop = (site.twin, 0 if site.twin else id(site.frame))
            groups.setdefault(site.tile, {}).setdefault(loop, []).append(site)
        chosen: set[str] = set()
        for loops in groups.values():
            best = max(loops.values(), key=_work)
            if len(loops) > 1 and _work(best) >= _BUSY:
                chosen.update(site.token for site in best)
        for site in self._sites:
            text = text.replace(site.token + "\n", site.text + "\n" if site.token in chosen else "", 1)
        return text


def _work(sites: list[_Site]) -> float:
    """Instructions per element in the loop around these places."""
    frame = sites[0].frame
    return len(frame.lines) / sum(site.elements for site in sites if site.frame is frame)
