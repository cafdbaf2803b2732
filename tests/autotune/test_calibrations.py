"""Calibrations in the database: keys, one transaction, migration, damage."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from headrace.autotune.db.calibrations import HeadRow, LengthBucket, decode_head, encode_head
from headrace.autotune.db.file import SqliteFile
from headrace.autotune.db.store import Store
from headrace.errors import ObservationError

DATA = Path(__file__).parent / "data"


def head(
    site: str = "layers.0", at: int = 0, *, name: str = "mine", rows: int = 100, fallback_rows: int = 0
) -> HeadRow:
    return HeadRow(
        name, "f" * 64, site, at, int(site[-1]), "heads=[2, 2, 2]", 0, 16, 1e-3, rows, fallback_rows, -3.5,
        -3.25, 4.0, 4.5, 1.0, 4.5, 1.5, 6.0, (LengthBucket(64, 60, 0), LengthBucket(128, 40, fallback_rows)),
    )  # fmt: skip


def whole(name: str = "mine") -> list[HeadRow]:
    return [head(f"layers.{layer}", at, name=name) for layer in range(3) for at in range(2)]


def test_a_row_survives_encoding_and_its_id_covers_every_field() -> None:
    one = head(fallback_rows=3)
    assert decode_head(encode_head(one)) == one
    ids = {one.id}
    for field in dataclasses.fields(HeadRow):
        value = getattr(one, field.name)
        other = {
            str: "other", int: 7, float: 0.5, tuple: (LengthBucket(2, 1, 0),),
        }[type(value)]  # fmt: skip
        ids.add(dataclasses.replace(one, **{field.name: other}).id)
    assert len(ids) == 1 + len(dataclasses.fields(HeadRow))


@pytest.mark.parametrize("field", ["score_max", "peak_min", "sum_max"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_range_that_is_no_number_is_no_row(field: str, value: float) -> None:
    with pytest.raises(ObservationError, match=field):
        dataclasses.replace(head(), **{field: value})


@pytest.mark.parametrize(("rows", "fallback_rows"), [(0, 0), (3, 4), (3, -1)])
def test_a_count_that_is_no_count_is_no_row(rows: int, fallback_rows: int) -> None:
    with pytest.raises(ObservationError, match="count"):
        head(rows=rows, fallback_rows=fallback_rows)


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_calibration_takes_the_place_of_an_older_one_of_its_name(kind: str, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "db.sqlite") if kind == "file" else Store.in_memory()
    assert store.record_calibrations([*whole(), *whole("other")])
    assert store.calibrations("mine") == tuple(whole())
    assert len(store.calibrations()) == 12
    assert store.record_calibrations([head("layers.9")])
    assert store.calibrations("mine") == (head("layers.9"),)
    assert store.calibrations("other") == tuple(whole("other"))
    assert store.calibrations("nobody") == ()


def test_calibrations_are_there_for_the_next_process(tmp_path: Path) -> None:
    with Store.open(tmp_path / "db.sqlite") as store:
        store.record_calibrations(whole())
    with Store.open(tmp_path / "db.sqlite", readonly=True, warn=pytest.fail) as store:
        assert store.calibrations("mine") == tuple(whole())


def test_a_failure_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    told: list[str] = []
    store = Store.open(tmp_path / "db.sqlite", warn=told.append)
    store.record_calibrations(whole())
    twice = [*whole()[:3], head("layers.0", 0)]  # the same key twice: the insert fails after the delete
    assert not store.record_calibrations(twice)
    assert store.calibrations("mine") == tuple(whole())
    assert len(told) == 1


def test_a_file_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    with Store.open(tmp_path / "db.sqlite") as store:
        store.record_calibrations(whole("other"))
    store = Store.open(tmp_path / "db.sqlite", readonly=True)
    assert not store.record_calibrations(whole())
    assert store.calibrations("mine") == ()


def test_a_full_disk_is_told_and_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    store = Store.open(tmp_path / "db.sqlite", warn=told.append)

    def fail(self: SqliteFile, rows: object) -> None:
        cause = sqlite3.OperationalError("database or disk is full")
        cause.sqlite_errorcode = sqlite3.SQLITE_FULL
        full = OperationalError("INSERT", {}, cause)
        raise full

    monkeypatch.setattr(SqliteFile, "put_calibrations", fail)
    assert not store.record_calibrations(whole())
    assert store.calibrations() == ()
    assert "disk is full" in told[0]


def test_a_changed_row_is_never_used(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with Store.open(path) as store:
        store.record_calibrations(whole())
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE calibrations SET fallback_rows = 1 WHERE site = 'layers.1' AND head = 1")
    raw.close()
    store = Store.open(path)
    assert len(store.calibrations("mine")) == 5
    assert store.damaged == 1


def test_an_older_file_has_none_and_takes_them_after_migration(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with sqlite3.connect(path) as raw:
        raw.executescript((DATA / "schema_1_0.sql").read_text())
    raw.close()
    old = Store.open(path, readonly=True, warn=pytest.fail)
    assert old.calibrations() == ()
    old.close()
    with Store.open(path, warn=pytest.fail) as store:
        assert store.record_calibrations(whole())
        assert len(store.observations()) == 2
    assert len(Store.open(path).calibrations("mine")) == 6


def test_a_damaged_files_calibrations_are_carried_over(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with Store.open(path) as store:
        store.record_calibrations(whole())
    raw = sqlite3.connect(path)
    raw.execute("DROP TABLE meta")  # what SqliteFile calls damage, with every other page whole
    raw.commit()
    raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw.close()
    told: list[str] = []
    store = Store.open(path, warn=told.append)
    assert "damaged" in told[0]
    assert store.calibrations("mine") == tuple(whole())
