"""What every part stands on: errors, files, settings and progress. Knows nothing of SAEs."""
