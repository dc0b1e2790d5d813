"""A step on a CPU by passes of sleave's own; each agrees with the plain torch of `forward` and `step` to rounding."""
