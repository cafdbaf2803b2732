"""The registry of dataflows: what may compute a Spec, which questions it asks, which answers are legal.

| dataflow   | of        | idea                                                                   |
|------------|-----------|------------------------------------------------------------------------|
| `prefill`  | Attention | one pass over the keys per tile of queries, online softmax             |
| `decode`   | Attention | few queries: heads that share keys packed, keys split, partials merged |
| `stream_decode` | Attention | as `decode`, for unequal lengths: workers take equal pieces of all tiles |
| `gemv`     | Gemm      | up to four rows: multiply and add, every weight read once              |
| `flat`     | Gemm      | rows padded to a tile: matrix units, K pipelined, K split              |
| `tiled`    | Gemm      | the general tiled product, tiles grouped along M                       |
| `stream_k` | Gemm      | as `flat`: workers take equal runs of the steps along K of all tiles   |
| `row`      | Rows      | whole rows on chip                                                     |
| `row_loop` | Rows      | long rows, one pass per step of reductions                             |
| `row_split` | Rows     | few long rows: several programs per row, partial values merged         |
| `library`  | any       | PyTorch's own operators                                                |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.codegen import families
from headrace.codegen.knobs import Choices
from headrace.codegen.work import Work
from headrace.errors import ScheduleError
from headrace.ir.device import Device
from headrace.ir.schedule import LIBRARY, Knob, Schedule
from headrace.ir.spec import Spec

__all__ = ["DATAFLOWS", "Dataflow", "Work", "dataflows", "get"]

Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Dataflow:
    """A way to compute a kind of Spec. `sizes` are always the Spec's run-time sizes; None where not yet
    known."""

    name: str
    template: str
    kind: str

    def knobs(self, spec: Spec, sizes: Sizes, device: Device) -> tuple[Knob, ...]:
        """The questions to ask for these sizes on this device; defaults first choice, values in order."""
        return () if self.name == "library" else self._choices.knobs(spec, sizes, device)

    def default(self, spec: Spec, sizes: Sizes, device: Device) -> Schedule:
        """The schedule of all defaults."""
        return Schedule(
            self.name, tuple((knob.name, knob.default) for knob in self.knobs(spec, sizes, device))
        )

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None:
        """None where the schedule computes the Spec on the device, else the reason why not."""
        if schedule.dataflow != self.name:
            return f"schedule {schedule} belongs to another dataflow than {self.name}"
        if self.name == "library":
            return None if not schedule.knobs else "library has no knobs"
        if self.kind != spec.kind:
            return f"{self.name} computes {self.kind}, not {spec.kind}"
        reason = families.supported(spec, device)
        return reason if reason is not None else self._choices.legal(spec, sizes, schedule, device)

    def work(self, spec: Spec, sizes: Sizes, schedule: Schedule, device: Device) -> Work:
        """What the schedule makes the device do: operations, bytes, programs, on-chip bytes, launches."""
        return families.work_of(spec, sizes, schedule, device)

    @property
    def _choices(self) -> Choices:
        return families.CHOICES[self.name]


DATAFLOWS: Mapping[str, Dataflow] = {
    flow.name: flow
    for flow in (
        Dataflow("prefill", "prefill", "Attention"),
        Dataflow("decode", "decode", "Attention"),
        Dataflow("stream_decode", "stream_decode", "Attention"),
        Dataflow("gemv", "gemv", "Gemm"),
        Dataflow("flat", "flat", "Gemm"),
        Dataflow("tiled", "tiled", "Gemm"),
        Dataflow("stream_k", "stream_k", "Gemm"),
        Dataflow("row", "row", "Rows"),
        Dataflow("row_loop", "row_loop", "Rows"),
        Dataflow("row_split", "row_split", "Rows"),
        Dataflow("library", "", "any"),
    )
}


def get(name: str) -> Dataflow:
    """The dataflow of a name.

    Raises:
        ScheduleError: there is none of that name.
    """
    if name not in DATAFLOWS:
        raise ScheduleError(f"there is no dataflow {name!r}; known: {', '.join(DATAFLOWS)}")
    return DATAFLOWS[name]


def dataflows(spec: Spec, sizes: Sizes, device: Device) -> tuple[Dataflow, ...]:
    """The dataflows that can compute a Spec of these sizes on a device, `library` last."""
    found = []
    for flow in DATAFLOWS.values():
        if flow.kind != spec.kind or 0 in sizes or not families.offered(flow.name, spec, sizes, device):
            continue
        if families.supported(spec, device) is None:
            schedule = flow.default(spec, sizes, device)
            if flow.legal(spec, sizes, schedule, device) is None:
                found.append(flow)
    return (*found, DATAFLOWS[LIBRARY.dataflow])
