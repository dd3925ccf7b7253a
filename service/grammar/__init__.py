"""What a request wants its answer to look like, as a grammar that llguidance runs."""
