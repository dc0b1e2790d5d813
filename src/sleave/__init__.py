"""sleave: sparse autoencoders whose features do not say the same thing twice."""

__version__ = "0.1.0"
