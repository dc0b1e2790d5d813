"""What a language model does with an autoencoder in it, and what the autoencoder's features know of text."""
