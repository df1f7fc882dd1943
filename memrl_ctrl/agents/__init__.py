"""Agents: networks with memory, replay, LSTM-TD3, and policies that can be exported.

Everything here needs torch (extra `train`) except `task`.
"""
