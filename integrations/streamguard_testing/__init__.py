"""Tools for testing streams: a loopback engine, readers that misbehave, servers as processes.

Needs nothing but the standard library.
"""

from streamguard_testing.clients import Leave, RawClient
from streamguard_testing.engine import LoopbackEngine
from streamguard_testing.faults import FAULT_HEADER, Billing, Cut, ErrorShape, Fault, Usage
from streamguard_testing.model import NGramModel
from streamguard_testing.processes import ServerProcess, free_port
from streamguard_testing.records import Ending, EngineRequest, LeftBy, State
from streamguard_testing.settings import EngineOptions, EngineSettings
from streamguard_testing.threads import RunningEngine, run_engine

__all__ = [
    "FAULT_HEADER",
    "Billing",
    "Cut",
    "Ending",
    "EngineOptions",
    "EngineRequest",
    "EngineSettings",
    "ErrorShape",
    "Fault",
    "Leave",
    "LeftBy",
    "LoopbackEngine",
    "NGramModel",
    "RawClient",
    "RunningEngine",
    "ServerProcess",
    "State",
    "Usage",
    "free_port",
    "run_engine",
]
