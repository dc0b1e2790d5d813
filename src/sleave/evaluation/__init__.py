"""What an autoencoder does on rows that training never saw: accumulators with typed results, and the table."""
