"""Codes of a batch: dense, or only what fires; and the kernels that go through them."""
