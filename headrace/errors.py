"""The catalogue of errors: one class per mistake, each message says what to do.

Classes are grouped by the floor that raises them, lowest first.
"""

from __future__ import annotations


class HeadraceError(Exception):
    """Base of everything headrace raises on purpose."""


# ir


class ExprSyntaxError(HeadraceError):
    """A scalar expression's text cannot be read."""


class SpecSyntaxError(HeadraceError):
    """A Spec's or Schedule's text cannot be read, or its fields contradict one another."""


class GraphSyntaxError(HeadraceError):
    """A graph's text form cannot be read; carries line and column."""


class VerificationError(HeadraceError):
    """A graph breaks a rule of the IR; names rule, node and source line."""


# codegen


class UnsupportedTtir(HeadraceError):
    """The CPU engine met an operation it does not lower; names the op and the kernel's source line."""


class CpuTargetError(HeadraceError):
    """The CPU engine is asked for processor features that are unknown or that this machine lacks."""


class CpuEngineError(HeadraceError):
    """The CPU engine's own LLVM IR was rejected, or a symbol that it needs is missing; carries LLVM's message."""
