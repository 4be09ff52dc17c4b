"""Asks a node for its health (grpc.health.v1), as those do who wait for one."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2

SERVING = "SERVING"
NOT_SERVING = "NOT_SERVING"
UNREACHABLE = "unreachable"

# Own subchannels: in the shared pool one failed attempt would delay the next to the same address.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def health(address: str, timeout_s: float) -> str:
    """How the server at "host:port" is: SERVING, NOT_SERVING (it answers, but not yes) or "unreachable"."""
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            reply = await check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return UNREACHABLE if error.code() in _NO_ANSWER else NOT_SERVING
    return SERVING if reply.status == health_pb2.HealthCheckResponse.SERVING else NOT_SERVING
