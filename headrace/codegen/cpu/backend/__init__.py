"""Triton's backend named ``cpu``. Triton imports this while it is itself being imported: nothing here may fail."""
