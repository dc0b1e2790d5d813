"""A language model's activations: kept on disk, shuffled, scaled and handed out in batches. Knows no language model."""
