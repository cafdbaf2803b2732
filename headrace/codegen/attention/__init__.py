"""Attention kernels: plans, choices and work of their dataflows."""
