"""Find or install a Triton, build its command line from its own help, supervise it."""
