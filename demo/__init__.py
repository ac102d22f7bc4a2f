"""The main job, end to end: export, serve, load, control, report."""
