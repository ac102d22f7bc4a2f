"""Why a decision is what it is, and what the guard did to it: the words of journal and docs."""

from __future__ import annotations

import enum


class Reason(enum.Enum):
    """Why a decision is what it is. Each has a row in docs/reference/reasons.md and a test."""

    HOLD_NO_DATA = "hold: data is missing, stale or was reset"
    HOLD_IDLE = "hold: nobody has asked this model anything yet"
    HOLD_WARMING_UP = "hold: the first stable window is not full"
    HOLD_STEADY = "hold: the capacity fits the load"
    HOLD_QUIET_TIME = "hold: smaller would do, but loading again may cost more than holding"
    HOLD_CONTRADICTED = "hold: the counters and the statistics of the server contradict each other"
    HOLD_FROZEN = "hold: a person froze this model"
    HOLD_EDITED = "hold: config.pbtxt was edited by hand and is not in force"
    HOLD_RULE = "hold: the rule is content with what is applied"
    SCALE_UP_LOAD = "scale up: the load needs more capacity"
    SCALE_UP_BACKLOG = "scale up: the waiting requests endanger the SLO"
    SCALE_UP_RESERVE = "scale up: more instances carry more, and nobody else needs their room"
    SCALE_DOWN = "scale down: an idle instance has cost as much as loading it again"
    SCALE_BY_RULE = "scale: the rule asks for another instance count"
    ROLLBACK = "rollback: the last change made things worse"
    QUALITY_DOWN = "quality down: a cheaper version, as no allowed count carries the load"
    QUALITY_STANDBY = "quality: the cheaper version is loaded beside, to take over at once"
    QUALITY_UP = "quality up: the better version carries the load again"
    CACHE_SWITCH = "response cache: switched by what its hits save"
    REBATCH = "rebatch: the base configuration, by what full batches were measured to take"
    OUT_OF_BOUNDS = "out of bounds: the applied count is not what the policy allows"
    AT_LIMIT = "at the limit: the load needs more than the policy allows"
    OVER_BUDGET = "over budget: others need the instances or the memory beyond this model's share"
    HOLD_LOOK_AGAIN = "hold: the load jumped within this look, the next one shows how far"
    SCALE_UP_BURSTS = "scale up: bursts as they came before would need more capacity"


class Clamp(enum.Enum):
    """What the guard did to a proposal. Each has a row in docs/reference/reasons.md and a test."""

    MIN_INSTANCES = "raised to min_instances"
    MAX_INSTANCES = "lowered to max_instances"
    COOLDOWN = "held: too soon after the last change"
    RELOAD_BUDGET = "held: the hour's reloads are spent"
    BLOCKED = "held: this target failed a short while ago"
    BUDGET = "lowered to this model's share of the budget"
    PROBE = "lowered to one instance more than was ever seen"
    MEMORY = "held: there is not enough free memory for another copy"
    BURN_RATE = "held: the error budget burns too fast for a change that could make it worse"
    CHANGE_BUDGET = "held: the hour's changes are spent"
    CHANGE_IN_FLIGHT = "held: a change is in flight"
    STEP_DOWN = "made a smaller step down"
    FROZEN = "held: a person froze this model"


RETIRED = frozenset({Reason.HOLD_LOOK_AGAIN, Reason.SCALE_UP_BURSTS, Clamp.STEP_DOWN, Clamp.FROZEN})
"""Of earlier versions, whose journals can be read; no decision has them any more."""
