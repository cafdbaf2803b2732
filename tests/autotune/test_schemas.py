"""Files of other schemas: older ones are migrated, newer ones read or refused."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from autotune_rows import some

from headrace.autotune.db.rows import Decision
from headrace.autotune.db.store import Store
from headrace.errors import DatabaseRefused

DATA = Path(__file__).parent / "data"


def test_older_schema_is_migrated_and_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with sqlite3.connect(path) as raw:
        raw.executescript((DATA / "schema_1_0.sql").read_text())
    raw.close()
    old = Store.open(path, readonly=True)
    assert len(old.observations()) == 2
    assert old.decisions("g") == ()
    old.close()
    store = Store.open(path, warn=pytest.fail)
    assert len(store.observations()) == 2
    assert store.damaged == 0
    store.record_decisions([Decision("g", "r", "s", (1,), "library{}", "default")])
    assert len(store.decisions("g")) == 1
    fresh = tmp_path / "fresh.sqlite"
    Store.open(fresh).close()
    assert _shape(path) == _shape(fresh)


def _shape(path: Path) -> dict[str, object]:
    with sqlite3.connect(path) as raw:
        tables = [
            name for (name,) in raw.execute("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY 1")
        ]
        shape: dict[str, object] = {
            table: [tuple(column[1:4]) + column[5:] for column in raw.execute(f"PRAGMA table_info({table})")]
            for table in tables
        }
        shape["version"] = raw.execute("SELECT version_num FROM alembic_version").fetchall()
        shape["schema"] = raw.execute("SELECT value FROM meta WHERE key='schema_version'").fetchall()
    raw.close()
    return shape


def test_newer_minor_is_read_and_newer_major_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with Store.open(path) as store:
        store.append(some(2))

    def set_version(text: str) -> None:
        with sqlite3.connect(path) as raw:
            raw.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (text,))
            raw.commit()
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        raw.close()

    set_version("1.9")
    with Store.open(path, warn=pytest.fail) as store:
        assert len(store.observations()) == 2
    set_version("2.0")
    before = path.read_bytes()
    with pytest.raises(DatabaseRefused, match="upgrade"):
        Store.open(path)
    assert path.read_bytes() == before


def test_opening_a_current_file_does_not_import_alembic(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from headrace.autotune.db.store import Store;"
        "s = Store.open(Path(sys.argv[1])); s.close(); Store.open(Path(sys.argv[1])).info();"
        "print([m for m in ('alembic', 'torch', 'optuna') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "db")], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
