"""Measurement: traces, open-loop replay, perf_analyzer, capacity, reports.

Drives load at a Triton and reads times; decides nothing and changes no server.
"""
