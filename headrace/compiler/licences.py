"""A calibration of the database as the licences that the passes take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.compiler.options import Options, nearest
from headrace.configuration import current
from headrace.errors import UnknownOption
from headrace.passes.unify import Licence, Licences

if TYPE_CHECKING:
    from headrace.autotune.db.calibrations import HeadRow


def load(options: Options) -> Licences:
    """The licences of the calibration that the options name; none where they name none.

    Raises:
        UnknownOption: the database has no such calibration.
        DatabaseRefused: the file that was named is not a headrace database.
    """
    if options.calibration is None:
        return Licences()
    from headrace.autotune.db.recovery import refuse_foreign
    from headrace.autotune.db.store import Store

    path = Path(options.database).expanduser() if options.database else current().database_path
    if options.database:
        refuse_foreign(path)
    with Store.open(path, readonly=True) as store:
        rows = store.calibrations(options.calibration)
        known = () if rows else tuple(sorted({row.name for row in store.calibrations()}))
    if not rows:
        raise UnknownOption(
            f"there is no calibration {options.calibration!r} in {path}"
            f"{nearest(options.calibration, known)}; "
            f"known: {', '.join(known) or 'none'}; `headrace calibrate --help` says how to make one"
        )
    return licences(options.calibration, rows)


def licences(name: str, rows: Sequence[HeadRow]) -> Licences:
    """What rows permit: a site is judged by its worst head. A graph that lost a row permits nothing."""
    graphs: dict[str, dict[int, list[HeadRow]]] = {}
    for row in rows:
        graphs.setdefault(row.fingerprint, {}).setdefault(row.place, []).append(row)
    found = []
    for key, places in graphs.items():
        whole = sorted(places) == list(range(len(places))) and all(map(_whole, places.values()))
        if whole:
            found.append((key, tuple(_licence(places[place]) for place in sorted(places))))
    return Licences(name, tuple(found))


def _whole(rows: list[HeadRow]) -> bool:
    """Whether a site has a row for each of its heads, and all of them agree on phi."""
    heads = re.match(r"heads=\[(\d+)", rows[0].form)
    return (
        heads is not None
        and sorted(row.head for row in rows) == list(range(int(heads[1])))
        and len({(row.site, row.phi, row.limit, row.form) for row in rows}) == 1
    )


def _licence(rows: list[HeadRow]) -> Licence:
    return Licence(rows[0].site, rows[0].phi, max(row.rate for row in rows), rows[0].limit)
