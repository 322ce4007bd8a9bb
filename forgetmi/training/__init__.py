"""The loop, seeds, logs and frozen references."""
