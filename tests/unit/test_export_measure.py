"""Paired timing, with a clock that the tests turn."""

import pytest

from export import measure


class Machine:
    """A clock, and calls that take time on it; ``slow`` scales them as a busy machine does."""

    def __init__(self):
        self.now_s = 0.0
        self.slow = 1.0
        self.order = []

    def clock(self):
        """Seconds."""
        return self.now_s

    def call(self, name, seconds):
        """A call that takes as long, and is remembered."""

        def run():
            self.order.append(name)
            self.now_s += seconds * self.slow

        return run


def test_paired_ratio_survives_a_machine_that_slows_down():
    """Both variants feel a slow spell; their ratio does not."""
    machine = Machine()
    heavy, light = machine.call("heavy", 0.04), machine.call("light", 0.02)

    def heavy_then_slower():
        heavy()
        machine.slow *= 1.1

    samples = measure.paired(
        {"heavy": heavy_then_slower, "light": light}, rounds=9, clock=machine.clock
    )
    assert samples["heavy"][-1] > 2 * samples["heavy"][0]
    ratio = measure.paired_ratio(samples["light"], samples["heavy"])
    assert ratio == pytest.approx(0.5, rel=0.11)


def test_paired_takes_turns_in_going_first():
    """No variant always runs after the same neighbour."""
    machine = Machine()
    calls = {name: machine.call(name, 1.0) for name in "abc"}
    measure.paired(calls, rounds=3, clock=machine.clock)
    timed = machine.order[6:]  # two untimed calls for each of the three go before
    assert "".join(timed) == "abc" + "bca" + "cab"


def test_paired_repeats_short_calls_until_a_sample_is_worth_timing():
    """A call of 1 ms is timed ten at a time, and the sample is that of one call."""
    machine = Machine()
    samples = measure.paired({"short": machine.call("short", 0.001)}, rounds=3, clock=machine.clock)
    assert samples["short"] == pytest.approx([0.001] * 3)
    assert len(machine.order) == pytest.approx(2 + 3 * 10, abs=3)


def test_size_is_the_sum_of_the_files(tmp_path):
    """External weights would count too."""
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "b").write_bytes(b"45")
    assert measure.size_bytes([tmp_path / "a", tmp_path / "b"]) == 5
