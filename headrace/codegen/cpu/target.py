"""What the engine may assume about the processor: an LLVM triple and a set of LLVM feature names."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import lru_cache

from headrace import settings
from headrace.codegen.cpu import amx
from headrace.codegen.cpu.fork import exclusive
from headrace.errors import CpuTargetError

# x86 features by the level that first may use them; anything not listed belongs to `native`.
_BASELINE = frozenset({"64bit", "cmov", "cx8", "fxsr", "mmx", "sse", "sse2", "x87"})
_AVX2 = _BASELINE | {
    "sse3",
    "ssse3",
    "sse4.1",
    "sse4.2",
    "cx16",
    "sahf",
    "popcnt",
    "crc32",
    "avx",
    "avx2",
    "bmi",
    "bmi2",
    "f16c",
    "fma",
    "lzcnt",
    "movbe",
    "xsave",
}
_AVX512 = _AVX2 | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
_LEVELS = {"baseline": _BASELINE, "avx2": _AVX2, "avx512": _AVX512}
_X86 = ("x86_64", "AMD64")


@dataclass(frozen=True)
class CpuTarget:
    """Triple, LLVM feature names that are on, and the names that must be switched off.

    The processor is always named generically: LLVM misnames some hosts, and only features decide what may be
    emitted.
    """

    triple: str
    features: frozenset[str]
    disabled: frozenset[str] = frozenset()
    level: str = "native"

    def has(self, *names: str) -> bool:
        """True if every named feature may be used."""
        return all(name in self.features for name in names)

    @property
    def vector_bits(self) -> int:
        """Width of the widest vector register: 512, 256 or 128."""
        if self.has("avx512f", "avx512bw", "avx512vl", "avx512dq"):
            return 512
        return 256 if self.has("avx2", "fma") else 128

    @property
    def is_x86(self) -> bool:
        return self.triple.startswith("x86_64")

    @property
    def cpu(self) -> str:
        """LLVM processor name."""
        return "x86-64" if self.is_x86 else "generic"

    @property
    def llvm_features(self) -> str:
        """LLVM feature string, sorted: ``+avx,...,-avx512f,...``."""
        return ",".join([f"+{f}" for f in sorted(self.features)] + [f"-{f}" for f in sorted(self.disabled)])

    @property
    def key(self) -> str:
        """What a cached object's hash must cover."""
        return f"{self.triple};{self.llvm_features}"


@exclusive
def host() -> CpuTarget:
    """The machine at hand, lowered to ``HEADRACE_CPU_FEATURES`` where that is set.

    Raises:
        CpuTargetError: the setting is unknown, or the machine lacks the level it asks for.
    """
    return _host(settings.cpu_features())


@lru_cache
def _host(level: str) -> CpuTarget:
    import llvmlite.binding as llvm

    found = dict(llvm.get_host_cpu_features())
    on = frozenset(name for name, present in found.items() if present)
    if "amx-tile" in on and not amx.permitted():
        on = frozenset(name for name in on if not name.startswith("amx-"))
    triple = llvm.get_process_triple()
    if level == "native":
        return CpuTarget(triple, on, frozenset(found) - on)
    if level not in _LEVELS:
        raise CpuTargetError(f"HEADRACE_CPU_FEATURES={level}: use native, {', '.join(sorted(_LEVELS))}")
    if platform.machine() not in _X86:
        raise CpuTargetError(
            f"HEADRACE_CPU_FEATURES={level} names an x86 level; this machine is {platform.machine()}"
        )
    wanted = _LEVELS[level]
    missing = (wanted - on) & frozenset(found)
    if missing:
        raise CpuTargetError(
            f"HEADRACE_CPU_FEATURES={level}: this processor lacks {', '.join(sorted(missing))}"
        )
    return CpuTarget(triple, wanted & on, frozenset(found) - (wanted & on), level)
