"""Ways to share one server: what each model holds at the start, and who changes it. Pure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from conch.errors import ConfigError
from control.core.need.base import SHARED_DELAY, TRANSPORT_S
from perf.bench.control.many import Member
from perf.bench.sharing.loads import Load

FIXED = "fixed"
_BASES = ("conch", "limiter", "even-split")
_MODIFIERS = ("refuse", "delay", "slots")
_KNOWN = (
    "conch, limiter, even-split or fixed:N-N, with -refuse or -delay behind it (conch-slots: on a "
    "server with slots); fixed stands for every split"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way.

    Attributes:
        label: how tables call it.
        counts: instances of each model at the start, in the order of the models.
        control: whether ``conch control run`` changes them.
        slots: executions at once by Triton's rate limiter; None for as many as are loaded.
        refuse: whether late requests are refused.
        delay: whether requests wait for each other to fill a batch, as long as control would have.
    """

    label: str
    counts: tuple[int, ...]
    control: bool = False
    slots: int | None = None
    refuse: bool = False
    delay: bool = False

    def refuse_after_s(self, member: Member) -> float | None:
        """For how long a request may wait and still be in time; None where none is refused."""
        if not self.refuse:
            return None
        model = member.model
        full_s = model.alpha_s * model.max_batch_size + model.beta_s
        limit_s = member.policy.slo_s * (1.0 - member.policy.margin_fraction)
        return round(limit_s - full_s - TRANSPORT_S, 3)

    def delay_s(self, member: Member) -> float:
        """For how long the batcher waits."""
        return round(SHARED_DELAY * member.policy.slo_s, 3) if self.delay else 0.0


def splits(models: int, budget: int) -> list[tuple[int, ...]]:
    """Every split of the budget that gives each model at least one instance.

    Example:
        >>> splits(2, 4)
        [(3, 1), (2, 2), (1, 3)]
    """
    every = itertools.product(range(budget, 0, -1), repeat=models)
    return [counts for counts in every if sum(counts) == budget]


def contenders(text: str, load: Load) -> list[Contender]:
    """Those of a comma-separated list, each once.

    Raises:
        ConfigError: for one that is not known, or a split of another budget.
    """
    found: dict[str, Contender] = {}
    for name in filter(None, (part.strip() for part in text.split(","))):
        base, modifiers = _parted(name)
        texts = [base]
        if base == FIXED:
            every = splits(len(load.members), load.budget)
            texts = [f"{FIXED}:{'-'.join(map(str, counts))}" for counts in every]
        for one in texts:
            made = _contender(name, one, modifiers, load)
            found[made.label] = made
    if not found:
        raise ConfigError(f"contenders: {text!r}, must name at least one.", hint=f"Known: {_KNOWN}")
    return list(found.values())


def _parted(name: str) -> tuple[str, tuple[str, ...]]:
    """The base, and the modifiers behind it."""
    modifiers: list[str] = []
    while (parts := name.rpartition("-"))[2] in _MODIFIERS:
        name = parts[0]
        modifiers.insert(0, parts[2])
    return name, tuple(modifiers)


def _contender(name: str, base: str, modifiers: tuple[str, ...], load: Load) -> Contender:
    """One contender of a name."""
    models, budget = len(load.members), load.budget
    even = tuple(budget // models + (n < budget % models) for n in range(models))
    made = Contender(
        label="-".join((base, *modifiers)),
        counts=even,
        refuse="refuse" in modifiers,
        delay="delay" in modifiers,
    )
    if base == "conch":
        made = replace(made, control=True, slots=budget if "slots" in modifiers else None)
    elif base == "limiter":
        made = replace(made, counts=(max(1, budget - 1),) * models, slots=budget)
    elif base.startswith(f"{FIXED}:"):
        made = replace(made, counts=_split(name, base, load))
    elif base not in _BASES:
        raise _unknown(name)
    if ("slots" in modifiers and base != "conch") or (made.control and made.delay):
        raise _unknown(name)
    return made


def _split(name: str, base: str, load: Load) -> tuple[int, ...]:
    """The counts that ``fixed:5-3`` means."""
    counts = base.partition(":")[2].split("-")
    if not all(part.isascii() and part.isdigit() for part in counts):
        raise _unknown(name)
    split = tuple(int(part[:9]) for part in counts)
    if len(split) != len(load.members) or sum(split) != load.budget or min(split) < 1:
        raise ConfigError(
            f"contender {name!r}: must split {load.budget} instances among {len(load.members)} "
            "models, at least one each.",
            hint=f"All of them: {FIXED}.",
        )
    return split


def _unknown(name: str) -> ConfigError:
    """What to tell of a name that is none."""
    return ConfigError(f"contender {name!r}: not known.", hint=f"Known: {_KNOWN}.")
