"""What a criterion is, and the criteria that any candidates can be chosen by."""
