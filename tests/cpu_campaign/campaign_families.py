"""The families of the campaign."""

from __future__ import annotations

from functools import cache

import campaign_aliasing
import campaign_collective
import campaign_control
import campaign_conversions
import campaign_dot
import campaign_effects
import campaign_elementwise
import campaign_host
import campaign_libdevice
import campaign_memory
import campaign_rounding
import campaign_scan
import campaign_shape
from campaign_core import Unit

FAMILIES = {
    "elementwise": campaign_elementwise.units,
    "conversion": campaign_conversions.units,
    "control": campaign_control.control_units,
    "atomics": campaign_effects.atomic_units,
    "descriptor": campaign_effects.other_units,
    "host": campaign_host.units,
    "dot": campaign_dot.units,
    "libdevice": lambda: [*campaign_libdevice.units(), *campaign_rounding.units()],
    "memory": campaign_memory.units,
    "aliasing": campaign_aliasing.units,
    "address": campaign_memory.address_units,
    "reduce": campaign_collective.units,
    "scan": campaign_scan.units,
    "shape": campaign_shape.units,
}


@cache
def family(name: str) -> list[Unit]:
    return FAMILIES[name]()


def by_name() -> dict[str, Unit]:
    return {u.name: u for name in FAMILIES for u in family(name)}
