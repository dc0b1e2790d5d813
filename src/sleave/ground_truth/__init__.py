"""Autoencoders trained on synthetic activations whose features are known."""
