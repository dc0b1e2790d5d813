"""Shapes and types in public signatures are checked in every test, and nowhere else."""

from jaxtyping import install_import_hook

install_import_hook("sleave", "checking.checked")
