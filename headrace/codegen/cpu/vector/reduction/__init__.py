"""Combining elements: reductions and scans."""
