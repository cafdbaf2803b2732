"""Capture: a functional ATen graph becomes an IR graph; what is not modelled is kept as `extern`."""

from headrace.compiler.capture.walk import Captured, capture

__all__ = ["Captured", "capture"]
