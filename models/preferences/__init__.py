"""Comparisons and their models: reward heads, links, ties and graded answers."""
