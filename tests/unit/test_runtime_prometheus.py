"""The configuration with which a Prometheus of ours scrapes servers."""

from __future__ import annotations

import yaml

from serving.runtime import prometheus


def test_scrape_config_names_each_target() -> None:
    """One job a server, its own path, every second."""
    config = yaml.safe_load(
        prometheus.scrape_config(
            {"a": "http://127.0.0.1:1/metrics", "b": "http://127.0.0.1:2/other"}, interval_s=1
        )
    )
    assert config["global"]["scrape_interval"] == "1s"
    assert [(j["job_name"], j["metrics_path"]) for j in config["scrape_configs"]] == [
        ("a", "/metrics"),
        ("b", "/other"),
    ]
    assert config["scrape_configs"][1]["static_configs"] == [{"targets": ["127.0.0.1:2"]}]
