"""The parts of ``membership.py``: arrays, peers, measurement in a process of its own, the page."""
