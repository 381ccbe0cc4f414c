"""Queries whether a service is ready."""

import http.client
from urllib.parse import urlsplit

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a look must not wait out the backoff of the one before
]


def is_serving(address: str, timeout: float = 0.5) -> bool:
    """Whether gRPC health at `address`, host:port, answers SERVING within `timeout` seconds.

    An address that begins with http:// must answer with 200.
    """
    if address.startswith("http://"):
        return _answers(address, timeout)
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _answers(url: str, timeout: float) -> bool:
    parts = urlsplit(url)
    asked = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)  # by no proxy
    try:
        asked.request("GET", parts.path or "/")
        return asked.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        asked.close()
