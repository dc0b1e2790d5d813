"""How entangled a sparse autoencoder is: pairs that tell of each other, near-duplicates, suspects; and their texts."""
