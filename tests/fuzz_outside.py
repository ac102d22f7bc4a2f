"""What others answer: Triton's page of metrics, a Prometheus."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from control.watch.prometheus import PrometheusCounters
from serving import metrics
from tests.fuzz_mutate import of_bytes, of_value
from tests.fuzz_scratch import is_refused

PAGE = "".join(
    f"# HELP {name} of a model\n# TYPE {name} counter\n"
    f'{name}{{model="m",version="1"}} 12\n{name}{{gpu_uuid="G-1",model="n",version="2"}} 3.5e3\n'
    for name in sorted(metrics.NAMES)
)
PIECES = (
    *(
        "NaN",
        "Inf",
        "-Inf",
        "-5",
        "1e999",
        "9" * 400,
        "0x10",
        "1_0",
        "+3",
        "'",
        "{",
        "}",
        '"',
        "\\",
    ),
    *('model="', 'x="\\n\\\\"', "# TYPE a b", "# EOF", " 1234567890", "\u0661", "\x00", '\\"'),
)


def metrics_page(draw: random.Random) -> bool:
    """A page of Triton's: words, lines and bytes."""
    lines = PAGE.splitlines(keepends=True)
    for _ in range(draw.choice((1, 3, 10))):
        at = draw.randrange(len(lines))
        line = lines[at]
        cut = draw.randrange(len(line) + 1)
        lines[at] = draw.choice(
            (line[:cut] + draw.choice(PIECES) + line[cut:], line[:cut], line * 2, line.strip(), "")
        )
    content = "".join(lines)
    if draw.random() < 0.4:
        content = of_bytes(content.encode(), draw).decode("utf-8", "replace")

    def use() -> None:
        old, new = metrics.parse(PAGE), metrics.parse(content)
        for name, counters in new.models.items():
            if name in old.models:
                metrics.delta(old.models[name], counters)
        for device in (*new.gpus.values(), *([new.host] if new.host else [])):
            _ = device.memory_free_bytes

    return is_refused(use)


def prometheus(draw: random.Random) -> bool:
    """The answers of a Prometheus."""
    labels = {"model": "m", "instance": "s:1", "version": "1"}
    answers = [
        [
            {"metric": {"__name__": "nv_inference_request_success", **labels}, "value": [1, "5"]},
            {"metric": {"__name__": "nv_cpu_utilization", "instance": "s:1"}, "value": [1, "0.5"]},
        ],
        [{"metric": labels, "value": [1, "100.5"]}],
        [{"metric": {"conch": "m"}, "value": [1, "42"]}],
    ]
    changed = of_value(answers, draw)
    left = iter(changed if isinstance(changed, list) else [changed])
    source = PrometheusCounters("http://p.invalid", arrivals="hits")
    source._prometheus._client.custom_query = lambda _query: next(left, [])

    def use() -> None:
        sample = source.sample(["m"])
        assert all(math.isfinite(at_s) for at_s in sample.at_s.values())
        sample.counters("m")

    return is_refused(use)


TARGETS: dict[str, Callable[[random.Random], bool]] = {
    "metrics page": metrics_page,
    "prometheus": prometheus,
}
