"""What would these settings carry? Λ(c, B, d): the largest load whose p99 keeps the SLO.

By a simulator of Triton's batcher, whose answers are kept in a table.
"""
