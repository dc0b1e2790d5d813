"""One step; the loop; schedules; checkpoints; the run directory."""
