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


class DeviceError(HeadraceError):
    """A Device lacks a figure that is asked for, or is not in the catalogue; names it and what to do."""


class EvaluationError(HeadraceError):
    """Operands do not fit what is to be evaluated, or the graph has an `extern` and no way to run it was
    given.
    """


class VerificationError(HeadraceError):
    """A graph breaks a rule of the IR; names rule, node and source line."""


# codegen


class RenderError(HeadraceError):
    """A template or the values for it do not fit; names template, line and the lines around."""


class ScheduleError(HeadraceError):
    """A Schedule cannot compute a Spec on a device; says which knob or size forbids it."""


class OperandError(HeadraceError):
    """Operands do not fit the Spec of the kernel they are given to; names operand, expected and found."""


class BuildError(HeadraceError):
    """A kernel cannot be built for a target; carries the target's compiler message."""


class UnsupportedTtir(HeadraceError):
    """The CPU engine met an operation it does not lower; names the op and the kernel's source line."""


class CpuTargetError(HeadraceError):
    """The CPU engine is asked for processor features that are unknown or that this machine lacks."""


class CpuEngineError(HeadraceError):
    """The CPU engine's own LLVM IR was rejected, or a symbol that it needs is missing; carries LLVM's
    message.
    """


# passes


class Unreadable(HeadraceError):
    """A pass declines a region; the message is the reason kept with the node. Never leaves the passes."""


class PassSyntaxError(HeadraceError):
    """A pass's or pipeline's text cannot be read, or an option has an unknown value; names what is known."""


# autotune


class ObservationError(HeadraceError):
    """A row of the database holds values that no observation can have."""


class DatabaseRefused(HeadraceError):
    """A path was given as the database that holds something else; names the path and what was found."""


class WorkerError(HeadraceError):
    """A tuning worker cannot be started or does not speak the protocol; carries its last words."""


class TuningError(HeadraceError):
    """A tuning request contradicts itself (unknown mode, no task, budget below zero); says what to change."""


# compiler


class UnknownOption(HeadraceError):
    """A `mode`, an option's key or its value is not known; names the nearest one that is."""


class EmitError(HeadraceError):
    """A rewritten graph cannot be expressed in FX; the graph that was given stays as it was."""


class FrozenWeightChanged(HeadraceError):
    """A weight that `headrace.freeze` recorded as constant was replaced or written to."""


class UnsupportedTorch(HeadraceError):
    """The installed torch lacks a private interface that headrace uses; names it and the versions that have
    it.
    """


class CalibrationError(HeadraceError):
    """A calibration cannot be made or used: bad data, no attention, or a database that cannot be written."""


class SettingsError(HeadraceError):
    """A setting's name or value is wrong; says which layer it stands in, and the nearest known name."""


class NothingToExplain(HeadraceError):
    """`headrace.explain` was asked about something that no headrace backend has compiled."""


# face


class SubjectError(HeadraceError):
    """What the command line is asked to tune or explain cannot be loaded; says what a subject looks like."""


class DemoModelMissing(HeadraceError):
    """A package that the demonstration needs is not installed; names it and the command that installs it."""
