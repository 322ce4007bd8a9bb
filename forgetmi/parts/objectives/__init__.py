"""Losses: pure functions on tensors, each from one paper."""
