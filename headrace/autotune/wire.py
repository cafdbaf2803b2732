"""What tuner and worker say to each other: one line of JSON per request and per reply. No pickle."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from headrace.errors import WorkerError
from headrace.ir.device import Backend, Device

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message of a line.

    Raises:
        WorkerError: the line is no message.
    """
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise WorkerError(f"not a message: {line[:80]!r}")
    return message


def device_fields(device: Device) -> Message:
    return dataclasses.asdict(device)


def device_of(fields: Message) -> Device:
    return Device(**{**fields, "backend": Backend(fields["backend"]), "features": tuple(fields["features"])})


def torch_name(device: Device) -> str:
    """Where torch puts tensors for a device: ROCm builds of torch call their devices `cuda` too."""
    return "cpu" if device.backend is Backend.CPU else "cuda"
