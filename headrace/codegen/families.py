"""The three families of Specs behind one door: which module plans which dataflow."""

from __future__ import annotations

from headrace.codegen import attention, gemm, rows
from headrace.codegen.plan import Facts, Plan
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


def facts(spec: Spec, schedule: Schedule, sizes: tuple[int, ...]) -> Facts:
    """What a kernel may assume when its first call has these run-time sizes and operands in the usual
    layout."""
    if isinstance(spec, Gemm):
        return gemm.default_facts(spec)
    if isinstance(spec, Attention):
        return Facts(sizes=(1,)) if schedule.dataflow == "decode" and sizes[1] == 1 else Facts()
    return Facts(sizes=(max(sizes[1], 1),))
