"""Pure decisions: no clock, no randomness but seeded, no I/O.

An event and the memory of a model give a decision and the next memory (``step``). The words:
*observed* is what a look shows, *applied* what Triton says is in force, *desired* what a decision
wants. *Demand* is the load that comes, *need* the instances that it calls for, a *proposal* what a
rule would do, and the guard makes a *decision* of it.

Rooms, each may import those after it: ``step``, ``rules``, ``decision`` and ``shares``, ``memory``,
``queue_model``, ``judgement``, ``load``, ``service``, ``types``.
"""
