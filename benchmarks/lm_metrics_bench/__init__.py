"""The parts of ``lm_metrics.py``; each has ``measure(quick)``, ``page(found)`` and ``broken(found)``."""
