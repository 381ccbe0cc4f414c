"""The speed of gRPC alone: a grpc.aio server that answers with the bytes it got, and calls to it."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import uvloop

SERVICE = "bench.Echo"
_OPTIONS = [("grpc.enable_http_proxy", 0)]


async def _unary(request: bytes, context: Any) -> bytes:
    return request


async def _stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def serve(port: int) -> None:
    """Until the process is ended."""
    server = grpc.aio.server(options=_OPTIONS)
    methods: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(_unary),
        "Stream": grpc.stream_stream_rpc_method_handler(_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def unary_calls(address: str, message: bytes, callers: int, seconds: float) -> tuple[int, float]:
    """Calls answered, and the seconds they took: `callers` at a time, each waiting for its answer."""
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/Unary")
        await call(message, wait_for_ready=True)
        began = time.monotonic()

        async def caller() -> int:
            done = 0
            while time.monotonic() - began < seconds:
                await call(message)
                done += 1
            return done

        counts = await asyncio.gather(*(caller() for _ in range(callers)))
        return sum(counts), time.monotonic() - began


async def stream_messages(address: str, message: bytes, seconds: float) -> tuple[int, float]:
    """Messages sent and answered on one stream, one after the other, and the seconds they took."""
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        stream: Any = channel.stream_stream(f"/{SERVICE}/Stream")(wait_for_ready=True)
        await stream.write(message)
        await stream.read()
        began, done = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            await stream.write(message)
            await stream.read()
            done += 1
        took = time.monotonic() - began
        await stream.done_writing()
        return done, took


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
