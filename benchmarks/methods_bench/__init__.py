"""Parts of the benchmark of methods; see ``benchmarks/methods.py``."""
