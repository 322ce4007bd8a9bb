"""Encoders, one file a kind of modality."""
