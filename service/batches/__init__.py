"""Files and batches: what they are, where they are kept, and what runs their lines. No HTTP."""
