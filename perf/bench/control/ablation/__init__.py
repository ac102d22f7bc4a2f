"""Which mechanisms of the controller earn their keep: each taken out, on loads of all kinds."""
