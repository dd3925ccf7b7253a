"""Values that every package may import: requests, sampling parameters, plans, results, messages."""
