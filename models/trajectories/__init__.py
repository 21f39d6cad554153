"""Snapshots of populations and the stochastic differential equations behind them."""
