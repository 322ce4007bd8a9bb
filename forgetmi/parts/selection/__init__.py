"""Which records each step sees."""
