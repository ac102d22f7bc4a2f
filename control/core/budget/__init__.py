"""What all models of a server share: who gets how many instances, and which of its versions."""
