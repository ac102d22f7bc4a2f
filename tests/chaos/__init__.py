"""Chaos: a real `conch serve` and `conch control run` under load, and a seeded row of faults."""
