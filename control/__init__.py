"""The control plane: a pure core that decides, and a thin shell that observes and acts."""
