"""Changes of the simulated Triton: who works meanwhile, when they end, and what is paid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perf import slo
from perf.bench.control.scenarios import EMULATED
from perf.bench.control.simulated import IDEAL, Actuation
from tests.unit.simulated import STEADY, at, ended_after, server, settings


def test_every_request_is_answered_once_through_all_kinds_of_changes() -> None:
    """Overload, more, fewer, reloads, another batch size: nothing is lost or counted twice."""
    arrival_s = at(180.0)
    playing = server(arrival_s, actuation=Actuation(), jitter=True)
    asked = [(settings(4), True), (settings(6), False), (settings(3), False)]
    asked += [(settings(3, max_batch_size=4), False), (settings(5), False)]
    begun = False
    for look in np.arange(0.0, 90.0, 0.5):
        if begun and playing.ended(float(look)):
            begun = False
        if asked and not begun and look >= 5:
            wanted, fresh = asked.pop(0)
            playing.begin(wanted, fresh=fresh, at_s=float(look))
            begun = True
        counters = playing.observe(float(look)).counters
        assert counters is not None
        here = np.searchsorted(arrival_s, look, side="right")
        assert 0 <= here - counters.success - counters.pending <= 8 * 16
    playing.finish()
    assert not asked
    assert not begun
    latency_s = playing.latency_s()
    assert np.isfinite(latency_s).all()
    assert (latency_s > EMULATED.alpha_s + 0.9 * EMULATED.beta_s).all()
    last = playing.observe(1000.0)
    assert last.counters is not None
    assert last.counters.success == arrival_s.size
    assert last.counters.inference_count == arrival_s.size
    assert last.counters.pending == 0
    transport_s = Actuation().transport_s
    assert last.counters.request_s == pytest.approx(float((latency_s - transport_s).sum()))
    assert last.statistics is not None
    assert 0 < last.statistics.success_count < arrival_s.size  # it began anew with the last copy


def test_new_instances_work_when_they_have_loaded_and_the_call_returns_when_nothing_waits() -> None:
    """2 → 4 in place at 1.3 times the capacity: a real Triton took 3.3 s and 8 s."""
    arrival_s = at(215.0)
    playing = server(arrival_s, actuation=replace(Actuation(), probe_before_s=0.0))
    playing.observe(10.0)
    playing.begin(settings(4), fresh=False, at_s=10.0)
    done = {s: playing.observe(s).counters for s in (12.0, 13.0, 14.0, 15.0)}
    rates = [done[s + 1].success - done[s].success for s in (12.0, 14.0)]  # type: ignore[union-attr]
    assert rates[0] == pytest.approx(165.0, abs=15)
    assert rates[1] == pytest.approx(330.0, abs=20)
    assert playing.settings.instances == 2
    took_s = ended_after(playing, 10.0)
    assert 6.0 < took_s < 14.0
    assert playing.settings.instances == 4
    assert playing.observe(10.0 + took_s).counters.pending <= 8  # type: ignore[union-attr]


def test_an_update_in_place_never_returns_while_the_queue_is_never_empty() -> None:
    """2 → 3 at 1.8 times the capacity of 2 stays saturated; no other change can begin."""
    playing = server(at(300.0), actuation=Actuation())
    playing.begin(settings(3), fresh=False, at_s=10.0)
    assert ended_after(playing, 10.0, within_s=45.0) == np.inf
    assert playing.settings.instances == 2
    with pytest.raises(ValueError, match="in flight"):
        playing.begin(settings(8), fresh=True, at_s=56.0)


def test_a_reload_leaves_what_waited_to_the_old_copy() -> None:
    """From the swap on new requests are fast, and the old ones are worked off beside them."""
    arrival_s = at(215.0)
    playing = server(arrival_s, actuation=replace(Actuation(), probe_before_s=0.0))
    playing.observe(10.0)
    playing.begin(settings(4), fresh=True, at_s=10.0)
    took_s = ended_after(playing, 10.0)
    assert 3.0 < took_s < 4.0
    playing.finish()
    latency_s = playing.latency_s()
    probe_s = STEADY.alpha_s + STEADY.beta_s + Actuation().batch_s
    swap = np.searchsorted(arrival_s, 10.0 + took_s - probe_s)
    assert np.quantile(latency_s[swap : swap + 400], 0.99) < 0.25
    assert latency_s[swap - 30 : swap].min() > 1.0
    done_s = arrival_s + latency_s
    both = np.count_nonzero((done_s > 10.0 + took_s) & (done_s < 11.0 + took_s))
    assert both == pytest.approx(215 + 165, abs=40)


def test_the_inference_before_a_change_waits_behind_the_queue_up_to_its_deadline() -> None:
    """A backlog of 3 s holds the change up for 3 s; one of 20 s for the deadline."""
    behind = {}
    for rate_rps, deadline_s in ((215.0, 10.0), (400.0, 10.0), (215.0, 0.0)):
        playing = server(at(rate_rps), actuation=replace(Actuation(), probe_before_s=deadline_s))
        playing.begin(settings(4), fresh=True, at_s=12.0)
        behind[rate_rps, deadline_s] = ended_after(playing, 12.0)
    change_s = behind[215.0, 0.0]
    assert behind[215.0, 10.0] - change_s == pytest.approx(12 * (215 / 166.7 - 1), abs=0.8)
    assert behind[400.0, 10.0] - change_s == pytest.approx(10.0)


@pytest.mark.parametrize(("count", "parallel", "seconds"), [(3, True, 3.0), (3, False, 6.0)])
def test_load_time_is_obeyed(count: int, *, parallel: bool, seconds: float) -> None:
    """Two new instances load side by side, or one after the other."""
    playing = server(at(10.0), instances=1, actuation=replace(IDEAL, parallel=parallel))
    playing.begin(settings(count), fresh=False, at_s=5.0)
    assert ended_after(playing, 5.0) == pytest.approx(seconds, abs=0.1)


def test_what_is_paid_begins_with_loading_and_ends_with_removal() -> None:
    """1 → 3 in place, a reload to 2, and 2 → 1, each beside hardly any load."""
    playing = server(np.arange(0.5, 100.0), instances=1, actuation=replace(IDEAL, unload_s=2.0))
    playing.begin(settings(3), fresh=False, at_s=10.0)
    assert playing.ended(20.0)
    playing.begin(settings(2), fresh=True, at_s=30.0)
    assert playing.ended(40.0)
    playing.begin(settings(1), fresh=False, at_s=50.0)
    assert playing.ended(60.0)
    assert [count for _, count in playing.paid] == [1, 3, 5, 2, 1]
    times = [at_s for at_s, _ in playing.paid]
    assert times == pytest.approx([0.0, 10.0, 30.0, 35.0, 52.0], abs=0.05)
    assert slo.instance_seconds(playing.paid, 100.0) == pytest.approx(
        10 + 20 * 3 + 5 * 5 + 17 * 2 + 48, abs=0.5
    )


def test_surplus_instances_take_no_more_batches_at_once_though_the_call_takes_longer() -> None:
    """4 → 2: the new count shows after 0.2 s, the change ends after 2.5 s."""
    playing = server(at(50.0), instances=4, actuation=replace(Actuation(), probe_before_s=0.0))
    playing.begin(settings(2), fresh=False, at_s=10.0)
    assert playing.observe(10.1).applied == settings(4)
    assert playing.observe(10.3).applied == settings(2)
    assert ended_after(playing, 10.0) == pytest.approx(2.5, abs=0.1)
