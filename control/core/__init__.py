"""Pure decisions: no clock, no randomness but seeded, no I/O."""
