"""A stand-in for a node or a replicator: a health service on EVERTALK_LISTEN, and what STUB_* says to do wrong.

STUB_GATE: dial this "host:port", send the process id, and hold the connection for life.
STUB_FAIL: exit with code 3. STUB_MUTE: stay NOT_SERVING. STUB_DEAF: ignore SIGTERM.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def main() -> None:
    """Serve until SIGTERM."""
    print(f"stub for {os.environ.get('EVERTALK_NODE') or os.environ['EVERTALK_NAME']}", flush=True)
    if "STUB_FAIL" in os.environ:
        sys.exit("the stub was told to fail")
    gate = None
    if "STUB_GATE" in os.environ:
        host, _, port = os.environ["STUB_GATE"].rpartition(":")
        gate = socket.create_connection((host, int(port)))
        gate.sendall(f"{os.getpid()}\n".encode())
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    service = health.HealthServicer()
    service.set("", NOT_SERVING if "STUB_MUTE" in os.environ else SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(service, server)
    server.add_insecure_port(os.environ["EVERTALK_LISTEN"])
    server.start()
    stop = signal.SIG_IGN if "STUB_DEAF" in os.environ else lambda *_: server.stop(0)
    signal.signal(signal.SIGTERM, stop)
    server.wait_for_termination()
    if gate is not None:
        gate.close()


if __name__ == "__main__":
    main()
