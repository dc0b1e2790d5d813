"""How strongly features depend on each other, and which pairs do so most. No loss, no training."""
