"""Grids of runs over methods, layers, seeds and any setting, on one shared harvest."""
