"""How a gradient becomes a step: masks, and gradients that do not conflict."""
