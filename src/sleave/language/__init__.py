"""Language models cut off after the layer that is hooked, and the text they read. Knows nothing of autoencoders."""
