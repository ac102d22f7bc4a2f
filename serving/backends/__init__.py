"""Python-based Triton backends; each folder's model.py runs inside Triton, not in this package."""
