"""What snapshots say: parameters of the reference SDE, Sinkhorn bridges, paths, forecasts."""
