"""The families of the campaign."""

from __future__ import annotations

from functools import cache

import campaign_collective
import campaign_control
import campaign_conversions
import campaign_dot
import campaign_effects
import campaign_elementwise
import campaign_host
import campaign_libdevice
import campaign_memory
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
    "libdevice": campaign_libdevice.units,
    "memory": campaign_memory.units,
    "aliasing": campaign_memory.alias_units,
    "address": campaign_memory.address_units,
    "reduce": campaign_collective.reduce_units,
    "scan": campaign_collective.scan_units,
    "shape": campaign_shape.units,
}


@cache
def family(name: str) -> list[Unit]:
    return FAMILIES[name]()


def by_name() -> dict[str, Unit]:
    return {u.name: u for name in FAMILIES for u in family(name)}
