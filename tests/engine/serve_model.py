"""Serves one GGUF model over HTTP with llama.cpp's own server until standard input is closed.

    python tests/engine/serve_model.py MODEL.gguf [--slots 4] [--context 4096] [--threads 1]

Prints one line, the server's URL. The server is the C++ one that llama.cpp ships, brought in by
the `xllamacpp` wheel: OpenAI's routes, `/slots` and `/metrics`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import xllamacpp


def parameters(model: Path, *, slots: int, context: int, threads: int) -> xllamacpp.CommonParams:
    """The settings of the server: everything that would blur a count or a time is off."""
    wanted = xllamacpp.CommonParams()
    wanted.model.path = str(model)
    wanted.hostnames = ["127.0.0.1"]
    wanted.port = 0
    wanted.n_parallel = slots
    wanted.n_ctx = slots * context
    wanted.cpuparams.n_threads = threads
    wanted.cpuparams_batch.n_threads = threads
    # Small batches: between two of them the server answers /slots and streams to other slots.
    wanted.n_batch = wanted.n_ubatch = 64
    # Every open stream holds a thread; waiting ones and our own questions need theirs too.
    wanted.n_threads_http = 8 * slots
    # The same prompt must cost the same work again.
    wanted.cache_prompt = False
    wanted.cache_ram_mib = 0
    wanted.endpoint_slots = wanted.endpoint_metrics = True
    wanted.n_gpu_layers = 0
    wanted.fit_params = wanted.warmup = False
    return wanted


def main() -> None:
    """Start the server, print its URL, and leave when the parent closes our input."""
    parser = argparse.ArgumentParser(description="Serve one GGUF model until input is closed.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    # The library may log to descriptor 1, which nobody reads after the first line.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = xllamacpp.Server(
        parameters(asked.model, slots=asked.slots, context=asked.context, threads=asked.threads)
    )
    print(server.listening_address, file=answer, flush=True)
    sys.stdin.read()
    # Open streams would hold an orderly exit up until they end.
    os._exit(0)


if __name__ == "__main__":
    main()
