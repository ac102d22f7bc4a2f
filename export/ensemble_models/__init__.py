"""Python models of an ensemble: each is copied as ``model.py`` and imports nothing of Conch."""
