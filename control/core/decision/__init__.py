"""What is to be done now? Proposals in the order of their importance, and the guard."""
