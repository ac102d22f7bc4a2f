"""What is attacked: the models, the load on them, and the processes that a user would run."""
