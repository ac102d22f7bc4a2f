"""Rules of others, and constant counts: to compare with, on the same terms."""
