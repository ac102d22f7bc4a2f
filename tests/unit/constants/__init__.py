"""Each constant of the core that decides something, and an outcome that changes with it."""
