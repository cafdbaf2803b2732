"""Triton's backend named ``cpu``. Triton imports this while it is itself being imported, so nothing here may
fail."""

# Whoever imports a module below before Triton would otherwise have Triton discover it half-initialised.
import triton as _triton  # noqa: F401  # for its effect, see above
