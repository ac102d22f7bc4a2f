"""`conch control rules`: what it lists is what a policy may name."""

import json

from click.testing import CliRunner

from cli.control import control
from conch.errors import ConfigError
from control.core.rules import RULES, rule_named


def test_the_list_has_every_rule_with_its_defaults_and_its_source():
    """As JSON; the text of the options names each of them."""
    shown = json.loads(CliRunner().invoke(control, ["rules", "--json"]).output)
    assert [row["name"] for row in shown["rules"]] == list(RULES)
    for row in shown["rules"]:
        assert row["summary"]
        assert row["source"]
        rule = rule_named(row["name"])
        for option, default in row["options"].items():
            if default is not None:
                assert getattr(rule, option) == default
            assert option in row["option_text"]


def test_one_rule_is_told_with_its_theory_its_options_and_what_to_try():
    """For people."""
    shown = CliRunner().invoke(control, ["rules", "knative-kpa"]).output
    assert "panic_threshold: 2.0" in shown
    assert "Source: knative/serving" in shown
    assert "target_concurrency: 0.0   (worth trying: 1, 2, 3, 4, 5.6, 8, 12)" in shown


def test_an_unknown_rule_is_an_error_with_a_way_out():
    """It names the ones that are known."""
    ended = CliRunner().invoke(control, ["rules", "kpa"])
    assert isinstance(ended.exception, ConfigError)
    assert "knative-kpa" in str(ended.exception)
