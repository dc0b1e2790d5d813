"""Sparse autoencoders: encode, decode, how they begin, and their files."""
