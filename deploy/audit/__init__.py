"""Whether holes are known in what is installed."""
