"""Differentiable loss terms that keep features apart: `loss = loss + penalty(acts)` in anyone's training loop."""
