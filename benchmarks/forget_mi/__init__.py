"""The two sides of the Forget-MI step benchmark."""
