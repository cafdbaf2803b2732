"""What tuning asks of codegen, as a protocol, so that tests race dataflows of their own."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from headrace.errors import TuningError
from headrace.ir.device import Device
from headrace.ir.schedule import Knob, Schedule
from headrace.ir.spec import Spec

if TYPE_CHECKING:
    import torch

CODEGEN = "headrace.autotune.registry:Codegen"


class Dataflow(Protocol):
    """A way to compute a Spec, with its questions and their limits."""

    @property
    def name(self) -> str: ...

    def knobs(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> tuple[Knob, ...]:
        """The questions a Schedule of this dataflow answers."""
        ...

    def legal(self, spec: Spec, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> str | None:
        """None when the Schedule may run, else the reason why not."""
        ...

    def default(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> Schedule:
        """The Schedule used without any knowledge."""
        ...


class Kernel(Protocol):
    """A built kernel: operands in, results out."""

    def __call__(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor | tuple[torch.Tensor, ...]: ...


class Registry(Protocol):
    """Dataflows by Spec, their template hashes, and the way to a kernel."""

    def dataflows(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> Sequence[Dataflow]:
        """The dataflows that can compute the Spec at these sizes on the device, preferred first."""
        ...

    def digest(self, dataflow: str) -> str:
        """The hash of a dataflow's template and of the generator's version; any text for an unknown one."""
        ...

    def instantiate(self, spec: Spec, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> Kernel:
        """Build the kernel, compiled for these sizes so that a failure to build is not taken for a crash."""
        ...


class Codegen:
    """The registry of `headrace.codegen`."""

    def dataflows(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> Sequence[Dataflow]:
        from headrace.codegen.dataflows import dataflows

        return dataflows(spec, sizes, device)

    def digest(self, dataflow: str) -> str:
        from headrace.codegen.dataflows import DATAFLOWS
        from headrace.codegen.modules import CODEGEN_VERSION
        from headrace.codegen.render import template_digest

        flow = DATAFLOWS.get(dataflow)
        if flow is None:
            return "unknown"
        return f"{template_digest(flow.template)[:32] if flow.template else flow.name}/{CODEGEN_VERSION}"

    def instantiate(self, spec: Spec, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> Kernel:
        from headrace.codegen.kernel import instantiate

        kernel = instantiate(spec, schedule, device)
        kernel.prepare(sizes)
        return kernel


def load_registry(name: str) -> Registry:
    """The registry of `module:class`, as a worker is told it.

    Raises:
        TuningError: there is no such module or class.
    """
    module, _, attribute = name.partition(":")
    try:
        registry: Registry = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, TypeError) as error:
        raise TuningError(f"cannot load the registry {name!r} ({error}); expected module:class") from None
    return registry


def refusal(
    registry: Registry, spec: Spec, sizes: tuple[int, ...], schedule: Schedule, device: Device
) -> str | None:
    """Why a Schedule may not run here, or None. `library` always may."""
    if schedule.dataflow == "library":
        return None
    for dataflow in registry.dataflows(spec, sizes, device):
        if dataflow.name == schedule.dataflow:
            return dataflow.legal(spec, sizes, schedule, device)
    return f"dataflow {schedule.dataflow} does not serve this operation here"
