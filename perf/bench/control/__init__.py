"""Rules side by side on the same arrivals: on a real Triton, and in the validated simulator."""
