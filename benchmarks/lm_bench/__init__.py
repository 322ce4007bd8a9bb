"""The parts of ``lm_step.py``: records, the sides, what is measured in a process, the page."""
