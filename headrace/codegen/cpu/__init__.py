"""Native Triton backend for CPUs. Imports nothing: Triton imports `backend` below it at start-up."""
