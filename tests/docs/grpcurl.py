"""What the documents use of grpcurl, which Debian does not have: -plaintext, -d, ADDRESS, list, SERVICE/METHOD."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def call(channel: grpc.Channel, pool: descriptor_pool.DescriptorPool, name: str, data: str) -> None:
    service, _, method = name.partition("/")
    found = pool.FindServiceByName(service).methods_by_name[method]
    asked, answered = (message_factory.GetMessageClass(kind) for kind in (found.input_type, found.output_type))
    make = channel.unary_stream if found.server_streaming else channel.unary_unary
    made: Any = make(f"/{name}", asked.SerializeToString, answered.FromString)
    answer = made(json_format.Parse(data, asked()), timeout=60)
    for message in answer if found.server_streaming else [answer]:
        print(json_format.MessageToJson(message, ensure_ascii=False))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-d", default="{}")
    parser.add_argument("address")
    parser.add_argument("name")
    args = parser.parse_args()
    with grpc.insecure_channel(args.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        if args.name == "list":
            print("\n".join(sorted(database.get_services())))
        else:
            call(channel, descriptor_pool.DescriptorPool(database), args.name, args.d)
    return 0


if __name__ == "__main__":
    sys.exit(main())
