"""Server reflection as v1alpha and as v1: newer clients ask for v1 alone, and the library serves v1alpha alone.

The messages of both have the same fields, so one servicer answers both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2

OLD, NEW = "grpc.reflection.v1alpha", "grpc.reflection.v1"
SERVICES = (reflection.SERVICE_NAME, f"{NEW}.ServerReflection")


def _renamed() -> FileDescriptorProto:
    """The file of v1, made of that of v1alpha."""
    file = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", NEW
    for message in file.message_type:
        for field in (field for field in message.field if field.type_name):
            field.type_name = field.type_name.replace(f".{OLD}.", f".{NEW}.")
    for method in (method for service in file.service for method in service.method):
        method.input_type = method.input_type.replace(f".{OLD}.", f".{NEW}.")
        method.output_type = method.output_type.replace(f".{OLD}.", f".{NEW}.")
    return file


descriptor_pool.Default().AddSerializedFile(_renamed().SerializeToString())  # clients describe what is listed


def enable(names: Iterable[str], server: grpc.aio.Server) -> None:
    """Before the server starts. `names`: the full names of all its services."""
    servicer: Any = reflection.aio.ReflectionServicer(tuple(names))
    ask = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in SERVICES:
        handler = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": ask})
        server.add_generic_rpc_handlers((handler,))
