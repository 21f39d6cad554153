"""What is compared: items, their features in memory, on disk or in a Dask array, and projections of them."""
