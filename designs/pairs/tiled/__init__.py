"""All pairs of all items, scored in tiles and never listed."""
