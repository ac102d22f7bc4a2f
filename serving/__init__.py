"""Everything that knows Triton, and nothing that decides."""
