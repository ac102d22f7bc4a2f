"""What is remembered of one model between looks, and what of it survives a restart."""
