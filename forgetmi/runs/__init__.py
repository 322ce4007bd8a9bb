"""Runs: the folder that holds one, and the stages that fill it."""
