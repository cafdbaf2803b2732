"""Gemm kernels: plans, choices and work of their dataflows."""
