"""Several models on one server: contenders over the same loads that move between the models."""
