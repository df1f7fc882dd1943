"""Benchmarks: each a function `run(json_path)`, found by entry point (`memrl_ctrl.benchmarks`)."""
