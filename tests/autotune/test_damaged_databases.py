"""A damaged database: rows that do not match their hash are never used, and a file is replaced, not lost."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from autotune_rows import some

from headrace.autotune.db.store import Store
from headrace.errors import DatabaseRefused


def test_changed_bits_are_never_used(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with Store.open(path) as store:
        good = some(40)
        store.append(good)
    whole, ids, rng = path.read_bytes(), {r.id: r for r in good}, random.Random(1)
    noticed = 0
    for turn in range(60):
        copy = tmp_path / f"flip{turn}" / "db.sqlite"
        copy.parent.mkdir()
        data = bytearray(whole)
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
        copy.write_bytes(data)
        told: list[str] = []
        try:
            store = Store.open(copy, warn=told.append)
        except DatabaseRefused:
            noticed += 1
            continue
        found = store.observations()
        assert all(ids.get(r.id) == r for r in found)
        noticed += bool(store.damaged or told)
        store.close()
        shutil.rmtree(copy.parent)
    assert noticed > 20


def test_hash_catches_an_edit_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with Store.open(path) as store:
        store.append(some(3))
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE observations SET samples = '[1e-09]', median = 1e-09 WHERE schedule LIKE '%=1}'")
    store = Store.open(path)
    assert len(store.observations()) == 2
    assert store.damaged == 1


@pytest.mark.parametrize("how", ["garbage", "header", "truncated", "page"])
def test_damaged_file_is_set_aside_with_one_warning(how: str, tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with Store.open(path) as store:
        store.append(some(200))
    data = bytearray(path.read_bytes())
    if how == "garbage":
        data = bytearray(random.Random(0).randbytes(5000))
    elif how == "header":
        data[:40] = bytes(40)
    elif how == "truncated":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2 : len(data) // 2 + 8192] = b"\xff" * 8192
    path.write_bytes(data)
    told: list[str] = []
    store = Store.open(path, warn=told.append)
    before = {r.id for r in store.observations()}
    store.append(some(1, tag=9))
    assert store.observations("Gemm{x=f32}")
    assert len(told) == 1
    assert "damaged" in told[0]
    aside = [
        file for file in tmp_path.iterdir() if ".corrupt-" in file.name and file.suffix[:9] == ".corrupt-"
    ]
    assert any(file.read_bytes() == bytes(data) for file in aside)
    assert before <= {r.id for r in some(200)}
    assert len(before) >= {"truncated": 50, "page": 150}.get(how, 0)  # what lies before and behind the damage
    store.close()
    again: list[str] = []
    assert len(Store.open(path, warn=again.append).observations()) == len(before) + 1
    assert again == []


def test_a_file_that_lost_its_end_keeps_the_rows_before_it(tmp_path: Path) -> None:
    with Store.open(tmp_path / "whole") as store:
        store.append(some(300))
    data = (tmp_path / "whole").read_bytes()
    saved = []
    for share in (0.3, 0.5, 0.9):
        path = tmp_path / f"part{share}"
        path.write_bytes(data[: int(share * len(data))])  # in the middle of a page, too
        store = Store.open(path, warn=lambda _: None)
        saved.append(len(store.observations()))
        store.close()
    assert 40 <= saved[0] < saved[1] < saved[2] < 300


def _mutated(data: bytes, rng: random.Random) -> bytes:
    """A database file after an accident."""
    changed = bytearray(data)
    match rng.randrange(5):
        case 0:
            del changed[rng.randrange(len(changed)) :]
        case 1:
            at, length = rng.randrange(len(changed)), rng.randrange(1, 20_000)
            changed[at : at + length] = rng.randbytes(len(changed[at : at + length]))
        case kind:
            low, high = {2: (0, 100), 3: (100, 4096), 4: (0, len(changed))}[kind]
            for _ in range(rng.randrange(1, 30)):
                changed[rng.randrange(low, high)] = rng.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("count", [25, pytest.param(1000, marks=pytest.mark.soak)])
def test_mutated_files_cost_rows_but_no_exception_and_no_wrong_row(count: int, tmp_path: Path) -> None:
    path, rng = tmp_path / "db.sqlite", random.Random(7)
    good, extra = {r.id: r for r in some(300)}, some(2, tag=7)
    with Store.open(path) as store:
        store.append(good.values())
    whole = path.read_bytes()
    for turn in range(count):
        copy = tmp_path / f"m{turn}" / "db.sqlite"
        copy.parent.mkdir()
        copy.write_bytes(_mutated(whole, rng))
        told: list[str] = []
        try:
            store = Store.open(copy, warn=told.append)
        except DatabaseRefused:
            continue
        assert all(good.get(r.id) == r for r in store.observations())
        store.append(extra)
        assert {r.id for r in extra} <= {r.id for r in store.observations()}
        assert len(told) <= 1
        store.close()
        shutil.rmtree(copy.parent)
