"""The machine interface over ZeroMQ: messages, server, client, keys (`docs/protocol.md`)."""

from memrl_backends.zmq.client import ZmqBackend, ZmqSource, open_backend
from memrl_backends.zmq.server import MachineServer

__all__ = ["MachineServer", "ZmqBackend", "ZmqSource", "open_backend"]
