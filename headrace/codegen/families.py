"""The three families of Specs behind one door: which module plans, asks and weighs what."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.codegen.attention import choices as attention_choices
from headrace.codegen.attention import plans as attention
from headrace.codegen.attention import work as attention_work
from headrace.codegen.gemm import choices as gemm_choices
from headrace.codegen.gemm import plans as gemm
from headrace.codegen.gemm import work as gemm_work
from headrace.codegen.knobs import Choices
from headrace.codegen.plan import Facts, Plan
from headrace.codegen.rows import choices as rows_choices
from headrace.codegen.rows import plans as rows
from headrace.codegen.rows import work as rows_work
from headrace.codegen.work import Work
from headrace.ir.device import Device
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Attention, Gemm, Spec


def plan(spec: Spec, schedule: Schedule, device: Device, facts: Facts | None = None) -> Plan:
    """The Plan of a Spec under a Schedule for a generated (not library) dataflow.

    Raises:
        ScheduleError: Spec, Schedule and Facts do not fit.
    """
    if isinstance(spec, Attention):
        return attention.plan(spec, schedule, device, facts)
    if isinstance(spec, Gemm):
        return gemm.plan(spec, schedule, device, facts)
    return rows.plan(spec, schedule, device, facts)


def supported(spec: Spec, device: Device) -> str | None:
    """Why no generated kernel takes a Spec at all, or None."""
    if isinstance(spec, Attention):
        return attention.supported(spec, device)
    if isinstance(spec, Gemm):
        return gemm.supported(spec, device)
    return rows.supported(spec, device)


def offered(dataflow: str, spec: Spec, sizes: tuple[int, ...], device: Device) -> bool:
    """False where a dataflow could compute a Spec of these sizes but has nothing to gain."""
    if dataflow == "stream_decode" and isinstance(spec, Attention):
        return attention_choices.worth_streaming(spec, sizes, device)
    if dataflow == "row_split":
        return rows_choices.worth_splitting(sizes, device)
    if dataflow == "stream_k" and isinstance(spec, Gemm):
        return gemm_choices.worth_streaming(spec, sizes, device)
    return True


def facts(spec: Spec, schedule: Schedule, sizes: tuple[int, ...]) -> Facts:
    """What a kernel may assume when its first call has these run-time sizes and operands in the usual
    layout."""
    if isinstance(spec, Gemm):
        return gemm.default_facts(spec)
    if isinstance(spec, Attention):
        return (
            Facts(sizes=(1,))
            if schedule.dataflow in ("decode", "stream_decode") and sizes[1] == 1
            else Facts()
        )
    return Facts(sizes=(max(sizes[1], 1),))


def work_of(spec: Spec, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> Work:
    """The Work of a schedule; `library` counts what the mathematics needs, in one program per unit."""
    if isinstance(spec, Gemm):
        return gemm_work.work(spec, sizes, schedule, device)
    if isinstance(spec, Attention):
        return attention_work.work(spec, sizes, schedule, device)
    return rows_work.work(spec, sizes, schedule, device)


CHOICES: Mapping[str, Choices] = {**attention_choices.CHOICES, **gemm_choices.CHOICES, **rows_choices.CHOICES}
