"""Seeing what a policy remembers: its state over time, what can be read from it, and what it is worth.

`study` does it all (`memrl_ctrl.training.memory.study`); the command is `memrl-ctrl memory`.
"""
