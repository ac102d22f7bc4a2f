"""How much CPU a model's own processes use: whether it waits is learnt from that."""

from __future__ import annotations

import os
import subprocess
import time
from unittest import mock

from control.watch import machine
from control.watch.machine import Machine
from serving.model_config import parse

CONFIG = parse('name: "m" instance_group { name: "m_0" count: 1 kind: KIND_CPU }')


def _watched(**stubs: dict[int, int]) -> Machine:
    with mock.patch.object(machine, "stub_processes", return_value=stubs):
        watched = Machine(pid=os.getpid())
        watched.cpu_s("m", CONFIG)
        watched._stubs_at_s = time.monotonic() + 1e6
    return watched


def test_cpu_is_that_of_the_models_own_processes_since_they_are_watched() -> None:
    """This process as its stub: it starts at nothing, and burning shows."""
    watched = _watched(m_0_0={os.getpid(): 1})
    begun_s = time.process_time()
    while time.process_time() - begun_s < 0.2:
        pass
    used_s = watched.cpu_s("m", CONFIG)
    assert used_s is not None
    assert used_s >= 0.1


def test_cpu_is_not_known_while_the_processes_are_others() -> None:
    """A reload replaced them, or there are more instances: they are looked up at once."""
    two = parse('name: "m" instance_group { name: "m_0" count: 2 kind: KIND_CPU }')
    with subprocess.Popen(["true"]) as ended:
        pass
    for config, stubs in ((CONFIG, {ended.pid: 1}), (two, {os.getpid(): 1})):
        watched = _watched(m_0_0=stubs)
        assert watched.cpu_s("m", config) is None
        now = {"m_0_0": {os.getpid(): 1}, "m_0_1": {os.getppid(): 1}}
        found = {name: now[name] for name in sorted(now)[: config.instance_group[0].count]}
        with mock.patch.object(machine, "stub_processes", return_value=found):
            assert watched.cpu_s("m", config) is not None


def test_cpu_of_a_model_without_processes_is_not_known() -> None:
    """A backend that runs inside the server, or a server elsewhere."""
    assert _watched(other_0_0={os.getpid(): 1}).cpu_s("m", CONFIG) is None
    assert Machine().cpu_s("m", CONFIG) is None


def test_a_model_on_gpus_waits_for_them() -> None:
    """Whatever its processes burn beside."""
    on_gpu = parse('name: "m" instance_group { name: "m_0" count: 1 kind: KIND_GPU gpus: [0] }')
    assert _watched(m_0_0={os.getpid(): 1}).cpu_s("m", on_gpu) == 0.0
