"""What validation labels say of the risk elsewhere: estimators, loss surfaces, splitters."""
