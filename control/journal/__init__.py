"""What was seen, decided and done: written, read, explained and decided again."""
