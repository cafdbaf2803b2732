"""Which options a kernel call runs under: those that its graph was compiled with.

Graphs that were compiled with the same run-time options (strictness, tuning, database, target) share a Scope:
one Resolver and one Dispatcher per Spec. Generated code and operators carry a Spec and no options, so that
Inductor's caches serve all options with one graph; a compiled graph says which Scope is its own by entering
it when it is called (`Watched` of backend.py). Operators that run outside of such a graph, as those of an
exported program, run in the default Scope.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.compiler.decisions import Decision, Resolver
from headrace.compiler.options import Options
from headrace.compiler.resolve import default_options, make_resolver
from headrace.compiler.restride import Kernel, Result
from headrace.compiler.runtime import Dispatcher, Table
from headrace.configuration import current
from headrace.ir.spec import Attention, parse_spec

if TYPE_CHECKING:
    import torch

# Torch's dispatch keys of the devices that kernels run on.
KINDS = ("CPU", "CUDA")


class Scope:
    """What graphs compiled under the same run-time options share.

    Attributes:
        options: the part of the options that decides how Schedules are found.
        resolver: finds them.
        tables: Dispatchers by torch's dispatch key and Spec text; emptying them changes nothing but speed.
    """

    __slots__ = ("options", "resolver", "tables")

    def __init__(self, options: Options, resolver: Resolver) -> None:
        self.options = options
        self.resolver = resolver
        self.tables = {kind: Table(resolver) for kind in KINDS}

    def renew(self) -> None:
        """Resolve anew if the database has changed."""
        if self.resolver.renew():
            self.forget()

    def forget(self) -> None:
        """Let every Dispatcher resolve anew at its next call, from the database as it is then."""
        self.resolver.renew()
        for table in self.tables.values():
            for dispatcher in list(table.values()):
                dispatcher.forget()

    def decisions(self) -> tuple[Decision, ...]:
        """All decisions made so far, in the order in which Specs were first run."""
        return tuple(
            decision
            for table in self.tables.values()
            for dispatcher in list(table.values())
            for decision in dispatcher.decisions
        )


class Runtime:
    """The Scopes of this process."""

    def __init__(self, make: Callable[[Options], Resolver]) -> None:
        self._make = make
        self._scopes: dict[tuple[Options, Path], Scope] = {}
        self._default: Scope | None = None
        self._lock = threading.RLock()

    def scope(self, options: Options) -> Scope:
        """The Scope of graphs that are compiled with these options; its database is looked at anew.

        Raises:
            HeadraceError: a database that was named explicitly cannot be used.
        """
        wanted = _resolving(options)
        # Where no database is named the settings name one, and these may have been read anew.
        key = wanted, current().database_path
        with self._lock:
            found = self._scopes.get(key)
            if found is None:
                return self._scopes.setdefault(key, Scope(wanted, self._make(wanted)))
        found.renew()
        return found

    @property
    def default(self) -> Scope:
        """Where operators run that no compiled graph calls: as the settings say, or `use` said last."""
        found = self._default
        if found is None:
            found = self._default = self.scope(default_options())
        return found

    def use(self, options: Options) -> Scope:
        """Run operators outside of compiled graphs as these options say from now on."""
        self._default = self.scope(options)
        return self._default

    def resolve_by(self, make: Callable[[Options], Resolver]) -> None:
        """Make Resolvers otherwise from now on; graphs that are compiled already keep theirs."""
        with self._lock:
            self._make, self._default = make, None
            self._scopes.clear()

    def forget(self) -> None:
        """Let every Dispatcher resolve anew at its next call, from the databases as they are then."""
        for scope in list(self._scopes.values()):
            scope.forget()

    def decisions(self) -> tuple[Decision, ...]:
        """All decisions made so far, Scope by Scope."""
        return tuple(decision for scope in list(self._scopes.values()) for decision in scope.decisions())


def _resolving(options: Options) -> Options:
    """The part of options that decides how Schedules are found."""
    return Options(
        strict=options.strict, tuning=options.tuning, budget=options.budget, database=options.database,
        target=options.target,
    )  # fmt: skip


class _Here(threading.local):
    """The Scope that kernel calls of this thread run in."""

    entered: Scope | None = None

    @property
    def scope(self) -> Scope:
        return self.entered or RUNTIME.default


@contextmanager
def entered(scope: Scope) -> Iterator[None]:
    """Kernel calls of this thread run in `scope` for a while."""
    before, HERE.entered = HERE.entered, scope
    try:
        yield
    finally:
        HERE.entered = before


def bind(kind: str, text: str) -> Callable[..., Result]:
    """The function of a Spec on a kind of device (`CPU` or `CUDA`); what generated code asks for when it is
    loaded. It takes about half a microsecond more than the kernel.
    """
    here = HERE
    finds: dict[Scope | None, Callable[[Any], Kernel | None]] = {}  # spares a call two look-ups

    def dispatcher() -> Dispatcher:
        found = here.scope.tables[kind][text]
        finds[here.scope] = found.find
        return found

    # Two functions of one shape, since asking which is meant would take as long as the look-up.
    if isinstance(parse_spec(text), Attention):

        def attend(*inputs: torch.Tensor) -> Result:
            find = finds.get(here.entered) or dispatcher().find
            kernel = find((inputs[0].shape, inputs[1].shape[2]))
            if kernel is None:
                return dispatcher().first(inputs)
            try:
                return kernel(inputs)
            except Exception as error:
                return dispatcher().rescue(inputs, error)

        return attend

    def call(*inputs: torch.Tensor) -> Result:
        find = finds.get(here.entered) or dispatcher().find
        kernel = find(inputs[0].shape)
        if kernel is None:
            return dispatcher().first(inputs)
        try:
            return kernel(inputs)
        except Exception as error:
            return dispatcher().rescue(inputs, error)

    return call


RUNTIME = Runtime(make_resolver)
HERE = _Here()
