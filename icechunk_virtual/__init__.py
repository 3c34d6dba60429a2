"""icechunk-virtual."""
