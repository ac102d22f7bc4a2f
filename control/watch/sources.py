"""Where the counters of models come from: a scrape of Triton, or another source of the same form.

A source answers for all models at once, so that a tick costs one request and not one a model.
``control.watch.prometheus`` is the other one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import requests

from conch.errors import TritonUnavailable
from control.watch.page import Unusable, WholeAnswers
from serving import metrics
from serving.metrics import MetricsError, ModelCounters, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a source said.

    Attributes:
        snapshot: counters and gauges of the server.
        at_s: when each model's counters were true, seconds since the epoch, by model.
        arrivals: running total of requests by a gateway's count, by model.
    """

    snapshot: Snapshot
    at_s: Mapping[str, float]
    arrivals: Mapping[str, float] = field(default_factory=dict)

    def counters(self, model: str) -> ModelCounters | None:
        """The model's counters; None when the source has none, or does not know from when."""
        return self.snapshot.models.get(model) if model in self.at_s else None


class CounterSource(Protocol):
    """Where the counters of models come from."""

    def sample(self, models: Collection[str]) -> Sample:
        """The newest counters; a model that the source does not have is not in it.

        Raises:
            TritonUnavailable: when the source does not answer.
            ConfigError: when its answer is not about one server.
        """


class ScrapedCounters:
    """Counters by a scrape of Triton's own ``/metrics``."""

    def __init__(
        self,
        metrics_url: str,
        *,
        deadline_s: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Scrape this address; ``deadline_s`` is for the whole answer."""
        self._clock = clock
        self._url = metrics_url
        # Made once: to look for proxies and passwords at each tick costs more than to ask. Sent
        # without a session, which would follow wherever an answer points.
        session = requests.Session()
        self._request = session.prepare_request(requests.Request("GET", metrics_url))
        self._around = session.merge_environment_settings(metrics_url, {}, None, None, None)
        self._answers = WholeAnswers(deadline_s=deadline_s)

    def snapshot(self) -> Snapshot:
        """Every model's counters.

        Raises:
            TritonUnavailable: when the port does not answer in time with a whole page of metrics.
        """
        try:
            response = self._answers.send(self._request, **self._around)
            if response.status_code != requests.codes.ok:
                raise Unusable(f"the answer is {response.status_code}")
            return metrics.parse(response.text)
        except (requests.RequestException, MetricsError) as error:
            why = f"{type(error).__name__}: {getattr(error, 'message', error)}"
            raise TritonUnavailable(
                f"metrics at {self._url}: no answer of use ({why[:200]}).",
                hint="Is the server running with metrics on? `conch doctor` looks.",
            ) from error

    def sample(self, models: Collection[str]) -> Sample:
        """The models' counters now."""
        snapshot = self.snapshot()
        # Taken after the answer: a slow scrape must not squeeze its arrivals into a short interval.
        now_s = self._clock()
        return Sample(
            snapshot=snapshot, at_s={name: now_s for name in models if name in snapshot.models}
        )
