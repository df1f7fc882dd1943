"""Backends of memrl-ctrl: simulation, ZeroMQ, recorded traces. Reached by entry point."""
