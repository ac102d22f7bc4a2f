"""Counters of models as the samples of a Prometheus that scrapes the server."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException

from conch.errors import ConfigError, TritonUnavailable
from control.watch.page import WholeAnswers
from control.watch.sources import Sample
from serving import metrics
from serving.metrics import MetricsError

_SUCCESS = "nv_inference_request_success"
_SERIES_A_QUERY = 20
_MOST_REDIRECTS = 3
"""A Prometheus behind another web server may have moved; each step has the whole deadline."""


class Prometheus:
    """Queries with a short deadline; the next tick is the retry."""

    def __init__(self, url: str, *, deadline_s: float = 2.0) -> None:
        """Ask the server at this base URL; ``deadline_s`` is for each whole answer."""
        self.url = url
        session = requests.Session()
        session.max_redirects = _MOST_REDIRECTS
        self._client = PrometheusConnect(url=url, session=session, timeout=deadline_s)
        answers = WholeAnswers(deadline_s=deadline_s)
        for prefix in (*session.adapters, url):  # the client has put one of its own there
            session.mount(prefix, answers)

    def now(self, query: str) -> list[dict[str, Any]]:
        """An instant query.

        Raises:
            TritonUnavailable: when it does not answer, or refuses the query.
        """
        with errors(self.url):
            return _series(self._client.custom_query(query))


@contextmanager
def errors(url: str) -> Iterator[None]:
    """Errors of the official client, and answers that are not a Prometheus', become ours."""
    try:
        yield
    except (PrometheusApiClientException, requests.RequestException) as error:
        raise _unavailable(url, f"no answer ({type(error).__name__})") from error
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MetricsError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise _unavailable(
            url, f"its answer is not a Prometheus' ({type(error).__name__})"
        ) from error


def _unavailable(url: str, why: str) -> TritonUnavailable:
    """What to tell the user."""
    return TritonUnavailable(
        f"Prometheus at {url}: {why}.",
        hint="Check the policy's `prometheus` and `arrivals` keys, or leave them out.",
    )


def _series(answer: Any) -> list[dict[str, Any]]:
    """The answer as a list of series with labels of text.

    Raises:
        TypeError: when it is anything else.
    """
    for series in answer:
        if not all(isinstance(label, str) for pair in series["metric"].items() for label in pair):
            raise TypeError("a label that is no text")
    return list(answer)


class PrometheusCounters:
    """Counters as the newest samples of a Prometheus that scrapes the server.

    The time of the sample counts and not that of the query: between two scrapes nothing is new, and
    a Prometheus that scrapes no more has no data, where the old numbers would look like no load.
    A Prometheus of a fleet has the same model several times: their sum is the load of no server, so
    ``instance`` must say which one is meant.
    """

    def __init__(
        self,
        url: str,
        *,
        instance: str | None = None,
        arrivals: str | None = None,
        deadline_s: float = 2.0,
    ) -> None:
        """Ask the Prometheus at ``url``.

        Args:
            url: its base URL.
            instance: the ``instance`` label of the server; None where it scrapes only one.
            arrivals: PromQL of a gateway's running total of requests, MODEL for the model's name.
            deadline_s: for each query.
        """
        self._prometheus = Prometheus(url, deadline_s=deadline_s)
        self._instance = instance
        self._arrivals = arrivals

    def sample(self, models: Collection[str]) -> Sample:
        """The models' counters as of the last scrape."""
        with errors(self._prometheus.url):
            return self._sample(models)

    def _sample(self, models: Collection[str]) -> Sample:
        """The same, with whatever an answer that is none raises."""
        chosen = selector(models, self._instance)
        names = "|".join(sorted(metrics.NAMES))
        found = self._prometheus.now(
            f'{{__name__=~"{names}",{chosen}}} or {{__name__=~"nv_(gpu|cpu)_.*"}}'
        )
        server = self._server(found)
        found = [series for series in found if series["metric"].get("instance", "") == server]
        stamps = self._prometheus.now(f"timestamp({_SUCCESS}{{{chosen}}})")
        at_s: dict[str, float] = {}
        for series in stamps:
            model, seconds = series["metric"]["model"], float(series["value"][1])
            if math.isfinite(seconds):
                at_s[model] = max(at_s.get(model, 0.0), seconds)
        lines = [_exposition(s["metric"], s["value"][1]) for s in found]
        return Sample(
            snapshot=metrics.parse("\n".join(lines) + "\n"),
            at_s=at_s,
            arrivals=self._arrived(models),
        )

    def _arrived(self, models: Collection[str]) -> dict[str, float]:
        """The gateway's totals, by model: one query for many models."""
        if self._arrivals is None:
            return {}
        parts = [
            f'label_replace(sum({self._arrivals.replace("MODEL", name)}),"conch","{name}","","")'
            for name in models
        ]
        totals: dict[str, float] = {}
        for first in range(0, len(parts), _SERIES_A_QUERY):
            query = " or ".join(parts[first : first + _SERIES_A_QUERY])
            for series in self._prometheus.now(query):
                totals[series["metric"]["conch"]] = float(series["value"][1])
        return totals

    def _server(self, found: list[dict[str, Any]]) -> str:
        """The one server that the models' counters are of; refuses several."""
        servers = {s["metric"].get("instance", "") for s in found if "model" in s["metric"]}
        if len(servers) > 1:
            names = sorted(servers)
            raise ConfigError(
                f"Prometheus at {self._prometheus.url}: has the models on {len(names)} servers "
                f"({', '.join(names)}), one must be chosen.",
                hint=f"Write `prometheus_instance: {names[0]}` into the policy.",
            )
        return servers.pop() if servers else ""


def selector(models: Collection[str], instance: str | None) -> str:
    """PromQL matchers of these models on this server.

    Example:
        >>> selector(["a.b", "c"], "gpu1:8002")
        'model=~"a[.]b|c",instance="gpu1:8002"'
    """
    names = "|".join(re.sub(r"\.", "[.]", name) for name in models)  # all else in a name is plain
    return f'model=~"{names}"' + (f',instance="{_quoted(instance)}"' if instance else "")


def _quoted(text: str) -> str:
    """As it must stand between double quotes."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _exposition(labels: dict[str, str], value: str) -> str:
    """One sample as a line of Prometheus text, so that one parser serves both sources."""
    inner = ",".join(f'{k}="{_quoted(v)}"' for k, v in sorted(labels.items()) if k != "__name__")
    return f"{labels['__name__']}{{{inner}}} {value}"
