"""A decision in words: what went in, the formula with its numbers, the guard, the next time."""

from __future__ import annotations

from control.core.queue_model.expected import expected
from control.core.reasons import Reason
from control.core.types import Decision, Observation, Settings
from serving.revisions import edited_hint

_TOLD = frozenset(
    {
        "fast_rps",
        "stable_rps",
        "pending_count",
        "drain_s",
        "service_alpha_s",
        "service_beta_s",
        "service_cv",
        "load_rps",
        "need_rps",
        "slo_s",
        "applied_instances",
        "counters_rps",
        "statistics_rps",
    }
)
"""Terms that have a sentence of their own; the rest goes into a table."""


def lines(
    model: str, decision: Decision, *, now_s: float, seen: Observation | None = None
) -> list[str]:
    """The explanation, one line each; empty lines separate its parts.

    Args:
        model: whose.
        decision: to explain.
        now_s: seconds since the epoch.
        seen: the look that it was decided on, where it is known.
    """
    text = [
        f"{model}: {decision.reason.value}  [{decision.reason.name}]",
        f"  tick {decision.tick_id}, {now_s - decision.at_s:.0f} s ago",
        *(f"  {line}" for line in remarks(model, decision, seen)),
        "",
        *_inputs(decision),
        "",
        *_formula(decision),
        *_rest(decision),
        "",
        f"applied   {describe(decision.applied)}",
        f"desired   {describe(decision.desired)}",
    ]
    if decision.clamps:
        text += [f"guard     {clamp.value}  [{clamp.name}]" for clamp in decision.clamps]
    else:
        text += ["guard     nothing was clamped"]
    text += _refusing(decision, seen)
    wait_s = decision.may_act_at_s - now_s
    when = "now" if wait_s <= 0 else f"in {wait_s:.0f} s (a scale up: now)"
    return [*text, f"next      may change again {when}"]


def edited(model: str) -> str:
    """What a person does about an edit that is not in force."""
    return f"{model}: config.pbtxt was edited by hand and is not in force. {edited_hint(model)}"


def remarks(model: str, decision: Decision, seen: Observation | None) -> list[str]:
    """What the reason's words do not say, from the look itself."""
    found = []
    if decision.reason is Reason.HOLD_EDITED or (seen is not None and seen.edited):
        found.append(edited(model))
    asked = seen.counters.success if seen is not None and seen.counters is not None else 0.0
    if decision.reason is Reason.HOLD_IDLE and asked > 0:
        found.append(f"No request while watching; {asked:.0f} since the server started.")
    return found


def describe(settings: Settings | None) -> str:
    """Settings in one line."""
    if settings is None:
        return "unknown"
    batching = "no dynamic batching"
    if settings.dynamic_batching:
        batching = (
            f"batches of up to {settings.max_batch_size}, "
            f"max queue delay {settings.max_queue_delay_s * 1e3:g} ms"
        )
    plural = "instance" if settings.instances == 1 else "instances"
    threads = "" if settings.threads is None else f" of {settings.threads} threads"
    if settings.threads == 1:
        threads = " of 1 thread"
    version = "" if settings.version is None else f", version {settings.version}"
    if settings.standby:
        version += f" ({', '.join(map(str, settings.standby))} on standby)"
    cache = ", response cache" if settings.response_cache else ""
    waits_s = settings.refuse_after_s
    refuses = "" if waits_s is None else f", refuses what waited {waits_s * 1e3:g} ms"
    return f"{settings.instances} {plural}{threads}, {batching}{version}{cache}{refuses}"


def kept_by_refusing(decision: Decision, seen: Observation | None) -> float | None:
    """Share of the requests that `late: refuse` would keep in time.

    None where nothing is won: the load is carried, or the model refuses already or cannot.
    """
    need, applied = decision.need, decision.applied
    if seen is not None and not seen.may_refuse:
        return None
    if need is None or applied is None or applied.refuse_after_s is not None:
        return None
    carried_rps = need.capacities.get(applied.instances, 0.0)
    if not applied.dynamic_batching or not 0.0 < carried_rps < need.rate_rps:
        return None
    return carried_rps / need.rate_rps


def refusing(kept: float) -> str:
    """What ``kept_by_refusing`` found, in words."""
    return (
        "more comes than is carried, and all wait in one queue: `late: refuse` would keep about "
        f"{100 * kept:.0f} % in time"
    )


def _inputs(decision: Decision) -> list[str]:
    """What was measured."""
    terms = decision.terms
    if decision.reason is Reason.HOLD_CONTRADICTED:
        return _contradiction(decision)
    if "fast_rps" not in terms:
        nothing = decision.reason is Reason.HOLD_NO_DATA
        told = "there is nothing to decide from yet" if nothing else "none but the terms below"
        return [f"inputs    {told}"]
    text = [f"inputs    offered load {terms['fast_rps']:.1f} req/s (fast window)"]
    if "stable_rps" in terms:
        text[0] += f", {terms['stable_rps']:.1f} req/s (stable window)"
    if "pending_count" in terms and "drain_s" in terms:
        waiting, drain_ms = terms["pending_count"], terms["drain_s"] * 1e3
        text.append(f"          {waiting:.0f} waiting, {drain_ms:.0f} ms to drain")
    if "service_alpha_s" in terms and "service_beta_s" in terms:
        text.append(
            f"          service time ℓ(b) = {terms['service_alpha_s'] * 1e3:.2f} ms·b + "
            f"{terms['service_beta_s'] * 1e3:.2f} ms (learnt from batch_stats)"
        )
    if (now := expected(terms, decision.applied)) is not None:
        text.append(f"          p99 expected as it is: {now.p99_s * 1e3:.0f} ms")
    return text


def _refusing(decision: Decision, seen: Observation | None) -> list[str]:
    """What refusing late requests would keep, where that is worth telling."""
    kept = kept_by_refusing(decision, seen)
    return [] if kept is None else [f"refusing  {refusing(kept)}"]


def _contradiction(decision: Decision) -> list[str]:
    """What either source says, and who is probably wrong."""
    counted, told = decision.terms["counters_rps"], decision.terms["statistics_rps"]
    text = [
        f"inputs    /metrics counts {counted:.1f} answered req/s",
        f"          ModelStatistics counts {told:.1f} answered req/s",
    ]
    if counted < told:
        return [
            *text,
            "          the page is probably wrong: it stands still. Is the server started with",
            "          --metrics-config counter_latencies=false? Does a proxy cache /metrics?",
            "          Is --metrics-url that of another server?",
        ]
    return [
        *text,
        "          the page is probably another server's: compare --metrics-url and --url;",
        "          or it stood still before, and is making up for it now.",
    ]


def _rest(decision: Decision) -> list[str]:
    """Every other number that the decision was made with."""
    left = {
        name: value
        for name, value in decision.terms.items()
        if name not in _TOLD and not name.startswith("capacity_")
    }
    if not left:
        return []
    width = max(len(name) for name in left)
    rows = [f"  {name:{width}}  {value:.6g}" for name, value in sorted(left.items())]
    return ["", "terms", *rows]


def _formula(decision: Decision) -> list[str]:
    """The comparison that was made, with numbers."""
    terms = decision.terms
    if "need_rps" not in terms:
        missing = decision.reason in (
            Reason.HOLD_NO_DATA,
            Reason.HOLD_IDLE,
            Reason.HOLD_CONTRADICTED,
        )
        return [f"formula   {'hold while anything needed is missing' if missing else 'none'}"]
    text = [f"formula   need = {terms['need_rps']:.1f} req/s: {_need(decision)}"]
    limit = f"{terms['slo_s'] * 1e3:.0f} ms"
    slow = terms.get("slow_ratio", 1.0)
    seconds = f", ÷ {slow:.2f} (slow seconds)" if slow > 1.0 else ""
    text.append(f"          capacity for p99 ≤ {limit} less the margin{seconds}:")
    for count, carried in _capacities(decision):
        verdict = "enough" if carried >= terms["need_rps"] else "too little"
        text.append(f"            {count} × instance: {carried:7.1f} req/s  {verdict}")
    if decision.need is not None:
        text.append(f"          goal = {decision.need.goal} instances: {_goal(decision)}")
    if "plan_gain" in terms:
        text.append(
            f"          base configuration: batches of {terms['plan_max_batch_size']:.0f}, delay "
            f"{terms['plan_max_queue_delay_s'] * 1e3:g} ms: {terms['plan_capacity_rps']:.1f} req/s "
            f"at most, {terms['plan_gain']:.2f} × as it is"
        )
    return text


def _need(decision: Decision) -> str:
    """Where the need comes from, in words."""
    terms = decision.terms
    need_rps = terms["need_rps"]
    load_rps = terms.get("load_rps", need_rps)
    if need_rps > load_rps:
        return f"a load of surely {load_rps:.1f} req/s is too much, and is met by its likely rate"
    return "what the load is at least, over all windows"


def _goal(decision: Decision) -> str:
    """Where the goal comes from, in words."""
    need = decision.need
    assert need is not None  # noqa: S101  # the caller says so
    applied = decision.applied
    if need.goal == need.needed:
        return "what the need takes"
    if applied is not None and need.goal == need.hold < applied.instances:
        return "the rest has cost as much idle as loading it again would"
    if applied is not None and need.goal <= applied.instances:
        return "held, as nobody else needs their room, or loading them again would cost more"
    return "all that add capacity, as nobody else needs their room"


def _capacities(decision: Decision) -> list[tuple[int, float]]:
    """(instances, capacity); out of the terms where an earlier version wrote the decision."""
    if decision.need is not None:
        return sorted(decision.need.capacities.items())
    found = [
        (int(name.split("_")[1]), value)
        for name, value in decision.terms.items()
        if name.startswith("capacity_") and name.endswith("_rps")
    ]
    return sorted(found)
