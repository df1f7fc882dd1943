"""onnxruntime without its telemetry.

Wheels of onnxruntime 1.31 for Linux keep events of every process (computer, program, sessions) in a
database below ~/.cache and send them to their maker. A control room's computers tell nobody what they
run, and the loop waits for no such thread. The library looks at ORT_DISABLE_TELEMETRY when it is loaded;
calling `disable_telemetry_events` is too late for the first events. Who wants it sets the variable to 0.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

__all__ = ["ort", "ort_state"]
