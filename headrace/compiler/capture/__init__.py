"""Capture: a functional ATen graph becomes an IR graph; what is not modelled is kept as `extern`.

`capture` walks; the op tables are in `views`, `pointwise`, `reductions`, `matmul` and `indexing`, one entry
per overload. `externs` runs what stayed, for `ir.evaluate`.
"""

from headrace.compiler.capture.reference import externs
from headrace.compiler.capture.walk import TABLE, Captured, capture

__all__ = ["TABLE", "Captured", "capture", "externs"]
