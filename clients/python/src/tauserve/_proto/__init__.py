"""Messages of the API, in a descriptor pool of their own.

A program may have modules of its own made from the API's files, even of another version; in one pool the two would be
refused. `inference_pb2` and `control_pb2` beside this file are made when the package is built.
"""

from typing import Any

from google.protobuf import descriptor_pool, duration_pb2

POOL: Any = descriptor_pool.DescriptorPool()
POOL.AddSerializedFile(duration_pb2.DESCRIPTOR.serialized_pb)
