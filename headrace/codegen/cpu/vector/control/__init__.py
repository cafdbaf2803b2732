"""Loops, branches, and what is lowered outside of the vector code."""
