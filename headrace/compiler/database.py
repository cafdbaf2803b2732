"""The database that a call or the settings name, opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from headrace.compiler.notices import warn_once
from headrace.configuration import current
from headrace.errors import HeadraceError, UnknownOption

if TYPE_CHECKING:
    from headrace.autotune.db.store import Store


def open_store(path: str | None) -> Store | None:
    """The database at a path, or the one that the settings name, or the user's own; None where none opens.

    A default database that cannot be used costs a warning. One that was named in the call must be usable.

    Raises:
        UnknownOption: the folder of a database that was named does not exist.
        DatabaseRefused: the file that was named is not a headrace database.
    """
    from headrace.autotune.db.recovery import refuse_foreign
    from headrace.autotune.db.store import Store

    if path is not None:
        if not Path(path).expanduser().parent.is_dir():
            raise UnknownOption(f"database {path}: the folder does not exist")
        refuse_foreign(Path(path).expanduser())
        return Store.open(Path(path).expanduser(), warn=_warn_database)
    try:
        return Store.open(current().database_path, warn=_warn_database)
    except (HeadraceError, OSError) as error:
        _warn_database(f"the database cannot be used, heuristics choose ({error})")
        return None


def _warn_database(message: str) -> None:
    warn_once(f"database:{message}", f"headrace: {message}")
