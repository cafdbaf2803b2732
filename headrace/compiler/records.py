"""What was claimed and what was not, kept per graph, so that it is known even when a cache skipped the
passes.

The folder is bounded: a record goes that no graph has used for `DAYS` days, and the longest unused ones
beyond `RECORDS`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx

from headrace.files import write_whole

log = logging.getLogger(__name__)

FORMAT = 1
RECORDS, DAYS = 1000, 90
# Folders are tidied when a process keeps its first record, and again after so many.
_EVERY = 100
_PART = ".part"


@dataclass(frozen=True, slots=True)
class Claim:
    """A region that one kernel computes: its operator's node, kind, Spec text and source line.

    `site` is the module path of an attention, `note` what a pass says of it: which stabilizer is permitted
    and why, or why not.
    """

    node: str
    kind: str
    spec: str
    replaces: tuple[str, ...] = ()
    source: str = ""
    site: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """A compute node that Inductor got, and why."""

    node: str
    op: str
    reason: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class GraphRecord:
    """What happened to one graph that Dynamo handed over.

    Attributes:
        key: the graph's hash; `explain` takes it.
        kind: `inference`, `training`, or `delegated` where headrace stood aside.
        nodes: FX nodes before the passes.
        claims, unclaimed: one entry per kernel, and per compute node that was left.
        note: why nothing was claimed, or empty.
        seconds: time spent in capture, passes and emit.
    """

    key: str
    kind: str = "inference"
    nodes: int = 0
    claims: tuple[Claim, ...] = ()
    unclaimed: tuple[Unclaimed, ...] = ()
    note: str = ""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> GraphRecord:
        """The record of what `as_json` gave.

        Raises:
            ValueError: the data is of another format.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"not a graph record of format {FORMAT}")
        fields = {field.name: data[field.name] for field in dataclasses.fields(cls)}
        fields["claims"] = tuple(
            Claim(**{**claim, "replaces": tuple(claim["replaces"])}) for claim in data["claims"]
        )
        fields["unclaimed"] = tuple(Unclaimed(**left) for left in data["unclaimed"])
        return cls(**fields)


@dataclass
class RecordStore:
    """Graph records in memory and, best effort, as one small file each under `folder`."""

    folder: Path | None = None
    _kept: int = 0
    _memory: dict[str, GraphRecord] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, record: GraphRecord) -> None:
        with self._lock:
            self._memory[record.key] = record
        if self.folder is None:
            return
        try:
            write_whole(self._path(record.key), json.dumps(record.as_json()).encode(), draft=_PART)
        except OSError as error:
            log.debug("the record of graph %s stays in memory: %s", record.key, error)
            return
        if self._kept % _EVERY == 0:
            prune(self.folder)
        self._kept += 1

    def use(self, key: str) -> None:
        """Remember that a graph was used again, which a cache had: its record stays for longer."""
        if self.folder is not None:
            with contextlib.suppress(OSError):
                os.utime(self._path(key))

    def find(self, key: str) -> GraphRecord | None:
        """The record of a graph; an unreadable file is a missing one."""
        with self._lock:
            if key in self._memory:
                return self._memory[key]
        if self.folder is None:
            return None
        try:
            return GraphRecord.from_json(json.loads(self._path(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.debug("no record of graph %s: %s", key, error)
            return None

    def recent(self) -> tuple[GraphRecord, ...]:
        """The records of this process, oldest first."""
        with self._lock:
            return tuple(self._memory.values())

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.json"


def prune(folder: Path, *, records: int = RECORDS, days: float = DAYS) -> int:
    """Remove records that were not used lately, and what an interrupted process left; returns how many went.

    Other processes may do so at the same time. Whatever cannot be removed stays.
    """
    now, aged = time.time(), []
    try:
        found = list(folder.iterdir())
    except OSError:  # not ours to look into, or gone since
        return 0
    for path in found:
        if path.suffix in (".json", _PART):
            with contextlib.suppress(OSError):
                aged.append((now - path.stat().st_mtime, path))
    aged.sort(key=lambda each: each[0])
    whole = [(age, path) for age, path in aged if path.suffix == ".json"]
    parts = [path for age, path in aged if path.suffix == _PART and age > 3600]
    old = [path for at, (age, path) in enumerate(whole) if at >= records or age > days * 86400]
    gone = 0
    for path in (*old, *parts):
        with contextlib.suppress(OSError):
            path.unlink()
            gone += 1
    return gone


def graph_key(module: fx.GraphModule, inputs: Iterable[object], salt: str) -> str:
    """The hash of a Dynamo graph with its inputs' types: 24 hex digits, the same in every process."""
    hasher = hashlib.sha256(f"{torch.__version__}\n{salt}\n{torch.is_grad_enabled()}".encode())
    for name, part in module.named_modules():
        if isinstance(part, fx.GraphModule):
            hasher.update(f"\n{name}\n".encode())
            for node in part.graph.nodes:
                arguments = fx.node.map_aggregate((node.args, node.kwargs), _stable)
                hasher.update(f"{node.op} {node.name} {_stable(node.target)} {arguments}\n".encode())
    for value in inputs:
        hasher.update(f"\n{_describe(value)}".encode())
    return hasher.hexdigest()[:24]


def _stable(value: Any) -> Any:
    """Functions by name: their usual text holds an address."""
    if callable(value) and not isinstance(value, (fx.Node, torch._ops.OpOverload)):
        return (
            f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
        )
    return value


def _describe(value: object) -> str:
    if isinstance(value, torch.Tensor):
        shape, strides = tuple(map(str, value.shape)), tuple(map(str, value.stride()))
        return f"{value.dtype} {shape} {strides} {value.device} {value.requires_grad}"
    return f"{type(value).__name__} {value}"
