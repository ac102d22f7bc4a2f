"""What can be seen of a server: looks, their sources, and a clock that never jumps.

Read only. May import ``act`` for nothing but the words of a config (``knobs``, ``baseline``).
"""
