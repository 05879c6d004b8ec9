"""Streams a generation from a Tauserve server.

    .venv/bin/python clients/python/generate.py "Once upon a time, there was a little fox named Mira. One day,"

Needs grpcio and grpcio-tools (deploy/setup.sh installs both into .venv); the stubs are made from proto/ on the fly.
"""
import argparse
import os
import pathlib
import sys
import tempfile

import grpc
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[2] / 'proto'
FILE = 'tauserve/inference/v1/inference.proto'


def load_stubs():
    """Compiles the API and returns its two modules, messages and services."""
    out = tempfile.mkdtemp()
    code = protoc.main(['protoc', f'-I{PROTO}', f'--python_out={out}', f'--grpc_python_out={out}', FILE])
    if code:
        sys.exit(f'protoc ended with {code}')
    sys.path.insert(0, out)
    from tauserve.inference.v1 import inference_pb2, inference_pb2_grpc
    return inference_pb2, inference_pb2_grpc


def read(file):
    return pathlib.Path(file).read_bytes() if file else None


def open_channel(args):
    """With TLS where --tls_ca is given."""
    if not args.tls_ca:
        return grpc.insecure_channel(args.server)
    return grpc.secure_channel(args.server, grpc.ssl_channel_credentials(
        read(args.tls_ca), read(args.tls_key), read(args.tls_cert)))


def call_metadata(args):
    """The token that the server may ask for."""
    token = read(args.token_file).decode() if args.token_file else os.environ.get('TAUSERVE_TOKEN', '')
    return [('authorization', f'Bearer {token.strip()}')] if token.strip() else []


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('prompt')
    parser.add_argument('--chat', action='store_true', help="ask as a chat's user")
    parser.add_argument('--server', default='127.0.0.1:50051')
    parser.add_argument('--max_new_tokens', type=int, default=100)
    parser.add_argument('--temperature', type=float)
    parser.add_argument('--tls_ca', help="PEM file of the server's authorities")
    parser.add_argument('--tls_cert', help="PEM file of the client's certificate")
    parser.add_argument('--tls_key', help='PEM file of its key')
    parser.add_argument('--token_file', help='file of the token to send; else $TAUSERVE_TOKEN itself')
    args = parser.parse_args()
    messages, services = load_stubs()

    request = messages.GenerateStreamRequest()
    if args.chat:
        request.input.chat.messages.add(role='user', content=args.prompt)
    else:
        request.input.text = args.prompt
    request.input.stopping.max_new_tokens = args.max_new_tokens
    if args.temperature is not None:
        request.input.sampling.temperature = args.temperature
    with open_channel(args) as channel:
        stub = services.InferenceServiceStub(channel)
        for event in stub.GenerateStream(request, metadata=call_metadata(args)):
            if event.HasField('delta'):
                print(event.delta.text, end='', flush=True)
            elif event.HasField('completed'):
                usage, attention = event.completed.usage, event.completed.attention
                print(f'\n[{usage.completion_tokens} tokens, {attention.mean_support_tokens:.1f} keys attended a row]')


if __name__ == '__main__':
    main()
