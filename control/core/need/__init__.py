"""What does the load call for? Instances, another batching, another version, the cache.

Plans and what they cost; whether they are carried out is the business of ``decision``.
"""
