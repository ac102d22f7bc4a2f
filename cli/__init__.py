"""The ``conch`` command: one module a command group, loaded only when it is called."""
