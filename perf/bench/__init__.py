"""Benchmarks of Conch itself: its backend, its actuator."""
