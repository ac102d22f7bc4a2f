"""What the arrival rates were before the controller started, by a Prometheus that saw them.

A season is known after two full periods of it (``control.core.seasonal``); a controller that
restarts would have to wait for them again. It is asked once, and a start never waits long for it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection, Mapping, Sequence

import structlog

from conch.errors import ConchError
from control import sources
from control.sources import Prometheus, selector

log = structlog.get_logger()

Rates = tuple[tuple[float, float], ...]
"""(at_s, requests/s) of one model, oldest first: means over a step that ended at ``at_s``."""

_SUCCESS = "nv_inference_request_success"
_FAILURE = "nv_inference_request_failure"
_HITS = "nv_cache_num_hits_per_model"
_MODELS_A_QUERY = 20
_QUERY_DEADLINE_S = 2.0
_SELDOM_S = 60.0
"""What rates are averaged over where the server is scraped too seldom for the step."""
_DENSE = 0.75
"""Of the steps between the first and the last, so many must have a rate."""


def nothing(_: Collection[str]) -> Mapping[str, Rates]:
    """The history where nobody keeps one."""
    return {}


class PrometheusHistory:
    """Arrival rates of the last hours."""

    def __init__(self, url: str, *, instance: str | None = None, deadline_s: float = 5.0) -> None:
        """Ask the Prometheus at ``url``.

        Args:
            url: its base URL.
            instance: the ``instance`` label of the server; None where it scrapes only one.
            deadline_s: for the whole answer.
        """
        query_s = min(deadline_s, _QUERY_DEADLINE_S)
        self._prometheus = Prometheus(url, deadline_s=query_s)
        self._instance = instance
        self._deadline_s = deadline_s

    def rates(
        self,
        models: Collection[str],
        *,
        last_s: float,
        step_s: float,
        now_s: float | None = None,
    ) -> Mapping[str, Rates]:
        """Requests/s that the instances answered or failed, by model.

        Those of the response cache are no load of theirs; they are in it where Triton does not
        count them by model. A model without a history is not in it. A Prometheus that does not
        answer, or not in time, costs one line of the log.
        """
        end_s = math.floor((time.time() if now_s is None else now_s) / step_s) * step_s
        found: dict[str, Rates] = {}
        errors: list[str] = []
        late = threading.Event()

        def ask() -> None:
            names = sorted(models)
            try:
                for first in range(0, len(names), _MODELS_A_QUERY):
                    if late.is_set():  # nobody waits for it any more
                        return
                    some = names[first : first + _MODELS_A_QUERY]
                    with sources.errors(self._prometheus.url):
                        found.update(self._of(some, end_s - last_s, end_s, step_s))
            except ConchError as error:
                errors.append(error.message)

        # In a thread: a deadline for all of the queries.
        thread = threading.Thread(target=ask, name="conch-history", daemon=True)
        thread.start()
        thread.join(self._deadline_s)
        if thread.is_alive():
            late.set()
            errors.append(f"no whole answer in {self._deadline_s:g} s.")
        if errors:
            log.warning("history.unreachable", url=self._prometheus.url, error=errors[0])
        return dict(found)

    def _of(
        self, models: Sequence[str], start_s: float, end_s: float, step_s: float
    ) -> dict[str, Rates]:
        """The rates of some models, each with the shortest window that the scrapes allow."""
        found: dict[str, Rates] = {}
        for window_s in dict.fromkeys((step_s, max(step_s, _SELDOM_S))):
            left = [name for name in models if not _is_dense(found.get(name, ()), step_s)]
            if left:
                found.update(self._range(left, window_s, start_s, end_s, step_s))
        return found

    def _range(
        self, models: Sequence[str], window_s: float, start_s: float, end_s: float, step_s: float
    ) -> dict[str, Rates]:
        """The rates with this averaging window; those that are no rates are left out."""
        chosen, window = selector(models, self._instance), f"{window_s * 1e3:.0f}ms"
        answered, failed, cached = (
            f"sum by (model) (rate({name}{{{chosen}}}[{window}]))"
            for name in (_SUCCESS, _FAILURE, _HITS)
        )
        answer = self._prometheus.range(
            f"clamp_min({answered} + {failed} - ({cached} or 0 * {answered}), 0)",
            start_s=start_s,
            end_s=end_s,
            step_s=step_s,
        )
        late_s = (window_s - step_s) / 2  # a mean is true in the middle of its window
        found: dict[str, Rates] = {}
        for series in answer:
            told = [(float(at_s) - late_s, float(rps)) for at_s, rps in series["values"]]
            rates = tuple((at_s, round(rps, 3)) for at_s, rps in told if 0 <= rps < math.inf)
            if rates and series["metric"]["model"] in models:
                found[series["metric"]["model"]] = rates
        return found


def _is_dense(rates: Rates, step_s: float) -> bool:
    """Whether few of the steps are without a rate."""
    if not rates:
        return False
    steps = (rates[-1][0] - rates[0][0]) / step_s + 1
    return len(rates) >= _DENSE * steps
