"""What every other package of Conch rests on: errors, names, units, config files, logging.

Imports nothing of the other packages, and no network library.
"""

__version__ = "0.1.0"
