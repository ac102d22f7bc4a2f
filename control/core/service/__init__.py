"""How long does a batch of b take? ℓ(b), learnt from executed batches.

By instances and threads, how they slow each other down, and by version of the model.
"""
