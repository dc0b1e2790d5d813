"""Forgetting by clamping features: what it takes from the model's answers, what it costs, and controls of it."""
