"""Pairs of items as candidates: pools, targets, and the criteria that need pairs."""
