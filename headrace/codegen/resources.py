"""What a built kernel needs, read from the artefact itself: no driver and no GPU are asked.

Triton's own spill count comes from the driver when a kernel is loaded. Here NVIDIA binaries are read by
`cuobjdump` and `nvdisasm`, which the triton wheel ships, and AMD binaries by the metadata that closes their
assembly.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import BuildError

# Matrix instructions of SASS: mma.sync (HMMA, IMMA, DMMA), wgmma (HGMMA, ...), tcgen05 (UTCHMMA, ...).
_SASS_MATRIX = re.compile(r"\b([HIQDB]G?MMA|UTC[A-Z]*MMA)\b")
_AMD_MATRIX = re.compile(r"^\s*(v_mfma_\w+|v_wmma_\w+)", re.MULTILINE)
# Copies from main memory to shared memory that nobody waits for: cp.async (LDGSTS), bulk copies (UBLKCP,
# UTMALDG); on AMD loads whose destination is LDS.
_SASS_COPY = re.compile(r"\b(LDGSTS|UBLKCP|UTMALDG)\b")
_AMD_COPY = re.compile(
    r"^\s*(global_load_lds|global_load_async_to_lds|buffer_load(?=_\w+ [^\n;]*\blds\b))", re.M
)


@dataclass(frozen=True, slots=True)
class Resources:
    """What one kernel needs.

    Attributes:
        registers: vector registers a thread (accumulation registers included on AMD).
        spills: bytes of local (AMD: scratch) memory that spilled registers take a thread. Scalar registers
            that AMD's compiler parks in lanes of vector registers touch no memory.
        shared_bytes: shared memory (LDS) a block, what Triton asks for at launch included.
        matrix: (instruction, how often it stands in the code), sorted.
        copies: asynchronous copies to shared memory, counted like `matrix`.
    """

    registers: int
    spills: int
    shared_bytes: int
    matrix: tuple[tuple[str, int], ...]
    copies: tuple[tuple[str, int], ...] = ()

    @property
    def matrix_text(self) -> str:
        """`HMMA x32`, or `none`."""
        return _counted(self.matrix)

    @property
    def copies_text(self) -> str:
        """`LDGSTS x15`, or `none`."""
        return _counted(self.copies)


def _counted(instructions: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{name} x{count}" for name, count in instructions) or "none"


def read_cubin(binary: bytes, dynamic_shared: int) -> tuple[Resources, str]:
    """Resources and SASS of a cubin with one kernel; `dynamic_shared` is what its launch asks for.

    Spills are local memory: `LOCAL` of the resource usage plus the stack, which Triton kernels use for
    nothing else.

    Raises:
        BuildError: the wheel's tools cannot read the binary.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernel.cubin"
        path.write_bytes(binary)
        usage = _tool("cuobjdump", "--dump-resource-usage", str(path))
        sass = _tool("nvdisasm", "-c", str(path))
    found = re.search(r"REG:(\d+)\s+STACK:(\d+)\s+SHARED:(\d+)\s+LOCAL:(\d+)", usage)
    if found is None:
        raise BuildError(f"cuobjdump printed no resource usage: {usage[-300:]!r}")
    registers, stack, static, local = map(int, found.groups())
    matrix, copies = Counter(_SASS_MATRIX.findall(sass)), Counter(_SASS_COPY.findall(sass))
    return Resources(
        registers, stack + local, max(static, dynamic_shared), tuple(sorted(matrix.items())),
        tuple(sorted(copies.items())),
    ), sass  # fmt: skip


def read_amdgcn(text: str, dynamic_shared: int) -> Resources:
    """Resources of an AMD kernel from the metadata of its assembly; `dynamic_shared` is what its launch
    asks for.

    Raises:
        BuildError: the metadata is not there.
    """

    def number(key: str) -> int:
        found = re.search(rf"\.{key}:\s*(\d+)", text)
        if found is None:
            raise BuildError(f"the assembly's metadata has no .{key}")
        return int(found[1])

    matrix = Counter(re.sub(r"_\d+x\d+x\d+.*", "", name) for name in _AMD_MATRIX.findall(text))
    copies = Counter(_AMD_COPY.findall(text))
    registers, spills = number("vgpr_count"), number("private_segment_fixed_size")
    shared = max(number("group_segment_fixed_size"), dynamic_shared)
    return Resources(registers, spills, shared, tuple(sorted(matrix.items())), tuple(sorted(copies.items())))


def _tool(name: str, *arguments: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    if not path.is_file():
        raise BuildError(f"the triton wheel has no {name} at {path}")
    done = subprocess.run([str(path), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{name} failed: {done.stderr.strip()[-300:]}")
    return done.stdout
