"""Changes: applied, proven, taken back, and dead parts of the server mended.

Nobody else writes into the repository or calls Triton's load.
"""
