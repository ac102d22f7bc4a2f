"""A simulated Triton with one model whose settings change while it runs. Pure: time is given.

Theory of operation. The batcher is that of ``control.core.queue_model.simulator``: one FIFO queue,
c instances, a free one takes what waits up to B, and a batch of b is busy for ℓ(b) with jitter.
Changes follow what a real Triton 2.51 did with the emulated accelerator:

* in place, more: the new instances load side by side and take work as soon as they have loaded, but
  the load call returns only when nothing waited and an instance was free, and shows the old count
  until then. No other change can begin before; a queue that is never empty holds it up for ever;
* in place, fewer: the surplus takes no more batches almost at once; the call returns later;
* full reload: a second copy loads beside the first. From the swap on it gets all new requests; what
  waited stays with the old copy, which works it off with its own instances and is then removed.
  Statistics start from zero, the counters show the sum of both;
* the actuator asks for one inference before each change and one after it, and they queue as well.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from control.core.types import Observation, Settings
from perf.bench.control.batcher import Copy, Totals
from perf.bench.emulated import EmulatedModel
from serving.metrics import ModelCounters


@dataclass(frozen=True, slots=True, kw_only=True)
class Actuation:
    """How long a change takes, beside the loading of the instances themselves.

    Attributes:
        start_s: before the first instance begins to load.
        start_each_s: for each new instance, the start of its process.
        parallel: whether the instances of one change load side by side or one after the other.
        remove_s: until surplus instances take no more batches.
        unload_s: until the call that removes instances returns.
        probe_before_s: deadline of the inference that is awaited before each change; 0 for none.
        probe_after: whether one is awaited after it, too.
        batch_s: what Triton adds to the time of each batch.
        transport_s: from the client to the queue and back, in all.
    """

    start_s: float = 0.1
    start_each_s: float = 0.13
    parallel: bool = True
    remove_s: float = 0.2
    unload_s: float = 2.5
    probe_before_s: float = 0.0
    probe_after: bool = True
    batch_s: float = 0.001
    transport_s: float = 0.002


IDEAL = Actuation(
    start_s=0.0,
    start_each_s=0.0,
    remove_s=0.0,
    unload_s=0.0,
    probe_before_s=0.0,
    probe_after=False,
    batch_s=0.0,
    transport_s=0.0,
)
"""Nothing beside the loading itself: the queue model alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A change that is in force.

    Attributes:
        at_s: when the actuator was done.
        reload: whether it was a full reload.
    """

    at_s: float
    reload: bool


@dataclass(slots=True)
class SimulatedServer:
    """One model on one simulated Triton.

    Attributes:
        model: service times, jitter and load time.
        arrival_s: float64 [n], ascending; may begin below 0.
        start_s: when the run begins.
        instances: at the start.
        seed: of the jitter.
        actuation: how long changes take.
        slower: by second of the run, see ``Totals``.
        epoch_s: added to every time that an observation shows; the core's times are never near 0.
    """

    model: EmulatedModel
    arrival_s: NDArray[np.float64]
    start_s: float
    instances: int
    seed: int
    actuation: Actuation = field(default_factory=Actuation)
    slower: tuple[float, ...] = ()
    epoch_s: float = 1e6
    _now_s: float = field(init=False)
    _copies: list[Copy] = field(init=False)
    _totals: Totals = field(init=False)
    _shown: Settings = field(init=False)
    _due: list[tuple[float, int, Callable[[float], None]]] = field(init=False)
    _paid: list[tuple[float, int]] = field(init=False)
    _paying: int = field(init=False)
    _ended: Ended | None = field(init=False, default=None)
    _busy: bool = field(init=False, default=False)
    _numbers: int = field(init=False, default=0)
    _looks: int = field(init=False, default=0)
    _retired: list[Copy] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with the model loaded and idle."""
        self._now_s = self.start_s
        self._totals = Totals(
            arrival_s=self.arrival_s,
            rng=np.random.default_rng((self.seed, 0x51)),
            jitter_fraction=self.model.jitter_fraction,
            slower=list(self.slower),
            start_s=self.start_s,
        )
        self._shown = Settings(
            instances=self.instances,
            max_batch_size=self.model.max_batch_size,
            dynamic_batching=True,
            max_queue_delay_s=self.model.max_queue_delay_s,
        )
        self._copies = [self._copy(self._shown, head=0, at_s=self.start_s)]
        self._due = []
        self._paid = []
        self._retired = []
        self._paying = 0
        self._pay(self.start_s, self.instances)

    @property
    def settings(self) -> Settings:
        """What Triton says is in force."""
        return self._shown

    @property
    def paid(self) -> tuple[tuple[float, int], ...]:
        """(at_s, instances): each counts from the start of its loading to its removal."""
        return tuple(self._paid)

    def advance(self, until_s: float) -> None:
        """Play everything up to this moment."""
        while True:
            target_s = min(until_s, self._due[0][0]) if self._due else until_s
            if self._run(target_s):
                continue  # it led to something that is due earlier
            if not self._due or self._due[0][0] > until_s:
                break
            at_s, _, act = heapq.heappop(self._due)
            act(at_s)
        self._now_s = max(self._now_s, until_s)

    def finish(self) -> None:
        """Play until every request is answered."""
        self.advance(math.inf)

    def observe(self, at_s: float) -> Observation:
        """A look at the model; plays up to then first."""
        self.advance(at_s)
        for copy in (*self._copies, *self._retired):
            copy.count(at_s)
        self._retired = [copy for copy in self._retired if copy.uncounted]
        self._looks += 1
        counted = self._totals.counted
        return Observation(
            at_s=self.epoch_s + at_s,
            tick_id=f"look-{self._looks}",
            counters=ModelCounters(
                success=counted.requests,
                inference_count=counted.requests,
                exec_count=counted.batches,
                request_s=counted.queue_s + counted.compute_s,
                queue_s=counted.queue_s,
                compute_infer_s=counted.compute_s,
                pending=sum(copy.waiting(at_s) for copy in self._copies),
            ),
            statistics=self._copies[-1].statistics(),
            applied=self._shown,
        )

    def begin(self, wanted: Settings, *, fresh: bool, at_s: float) -> None:
        """Begin a change; ``ended`` tells when it is in force.

        Raises:
            ValueError: when another change is in flight, or for no instances.
        """
        if self._busy:
            raise ValueError("simulated server: a change is in flight, must have ended first")
        if wanted.instances < 1:
            raise ValueError(f"simulated server: {wanted.instances} instances, must be 1 or more")
        self.advance(at_s)
        self._busy, self._ended = True, None
        reload = fresh or replace(wanted, instances=1) != replace(self._shown, instances=1)
        load = self._reload if reload else self._in_place
        if not self.actuation.probe_before_s:
            load(wanted, at_s)
            return
        late_s = at_s + self.actuation.probe_before_s
        begun = False

        def answered(now_s: float) -> None:
            nonlocal begun
            if not begun:
                begun = True
                load(wanted, now_s)

        # It is served with the last request that came before it, or as soon as one is free.
        current = self._copies[-1]
        last = current.arrived(at_s) - 1
        if current.head > last:
            self._at(max(at_s, current.free_s[0]) + self._one_s(), answered)
        else:
            self._at(late_s, answered)
            current.when_served(last, lambda s: self._at(s + self._one_s(), answered))

    def ended(self, at_s: float) -> Ended | None:
        """The change that has ended by then; told once."""
        self.advance(at_s)
        if self._ended is None or self._ended.at_s > at_s:
            return None
        ended, self._ended, self._busy = self._ended, None, False
        return ended

    def latency_s(self) -> NDArray[np.float64]:
        """float64 [n], from arrival to answer at the client; nan where it is not answered yet."""
        return self._totals.latency_s() + self.actuation.transport_s

    # --- what happens ---

    def _in_place(self, wanted: Settings, at_s: float) -> None:
        """Add or remove instances of the copy that serves."""
        more = wanted.instances - self._shown.instances
        if more >= 0:
            self._pay(at_s, more)
            for number in range(1, more + 1):
                ready_s = at_s + self._loading_s(more if self.actuation.parallel else number)
                self._at(ready_s, self._copies[-1].add)
            self._at(at_s + self._loading_s(more), lambda s: self._when_idle(wanted, s))
            return

        def remove(_: float) -> None:
            self._copies[-1].remove(-more)
            self._shown = wanted

        def removed(now_s: float) -> None:
            self._pay(now_s, more)
            self._done(now_s, reload=False)

        self._at(at_s + self.actuation.remove_s, remove)
        self._at(at_s + max(self.actuation.unload_s, self.actuation.remove_s), removed)

    def _when_idle(self, wanted: Settings, at_s: float) -> None:
        """The load call returns when nothing waits and an instance is free."""

        def idle(now_s: float) -> None:
            self._shown = wanted
            self._done(now_s, reload=False)

        current = self._copies[-1]
        if current.is_idle(at_s):
            idle(at_s)
        else:
            current.when_idle(lambda s: self._at(s, idle))

    def _reload(self, wanted: Settings, at_s: float) -> None:
        """Load a second copy, swap, and let the first work off what waits."""
        self._pay(at_s, wanted.instances)

        def swap(now_s: float) -> None:
            old = self._copies[-1]
            head = old.arrived(now_s)
            old.close(head)
            self._copies.append(self._copy(wanted, head=head, at_s=now_s))
            self._shown = wanted
            if old.head >= head:
                self._drained(old, now_s)
            else:
                old.when_served(head - 1, lambda s: self._drained(old, s))
            self._done(now_s, reload=True)

        self._at(at_s + self._loading_s(wanted.instances), swap)

    def _drained(self, old: Copy, at_s: float) -> None:
        """The old copy has begun its last batch: it goes when that is done."""
        self._copies.remove(old)
        self._retired.append(old)
        idle_s = max(at_s, *old.free_s)
        count = len(old.free_s)
        self._at(idle_s + self.actuation.unload_s, lambda s: self._pay(s, -count))

    def _done(self, at_s: float, *, reload: bool) -> None:
        """The change is in force; the inference after it is answered a little later."""
        probe_s = self._one_s() if self.actuation.probe_after else 0.0
        self._ended = Ended(at_s=at_s + probe_s, reload=reload)

    # --- how it is played ---

    def _run(self, until_s: float) -> bool:
        """Play the batches that start up to then; True when one of them led to something."""
        for copy in list(self._copies):
            told = copy.run(until_s)
            if told is not None:
                at_s, act = told
                act(at_s)
                return True
        self._now_s = max(self._now_s, until_s)
        return False

    def _at(self, at_s: float, act: Callable[[float], None]) -> None:
        """Do this at that moment."""
        self._numbers += 1
        heapq.heappush(self._due, (at_s, self._numbers, act))

    def _copy(self, settings: Settings, *, head: int, at_s: float) -> Copy:
        """A loaded copy that serves from this request on."""
        return Copy(
            totals=self._totals,
            alpha_s=self.model.alpha_s,
            beta_s=self.model.beta_s,
            beside_s=self.actuation.batch_s,
            largest_batch=settings.largest_batch,
            delay_s=settings.max_queue_delay_s if settings.dynamic_batching else 0.0,
            head=head,
            free_s=[at_s] * settings.instances,
        )

    def _loading_s(self, count: int) -> float:
        """Seconds until so many new instances have loaded."""
        if not count:
            return 0.0
        loads = 1 if self.actuation.parallel else count
        starts_s = self.actuation.start_s + count * self.actuation.start_each_s
        return starts_s + loads * self.model.load_s

    def _one_s(self) -> float:
        """Seconds of a batch of one."""
        return self.model.alpha_s + self.model.beta_s + self.actuation.batch_s

    def _pay(self, at_s: float, more: int) -> None:
        """From now on this many more instances are paid for."""
        self._paying += more
        if more:
            self._paid.append((at_s, self._paying))
