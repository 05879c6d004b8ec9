"""Streams a generation from a Tauserve server.

    .venv/bin/python clients/python/generate.py "Once upon a time, there was a little fox named Mira. One day,"

Needs grpcio and grpcio-tools (deploy/setup.sh installs both into .venv); the stubs are made from proto/ on the fly.
"""
import argparse
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('prompt')
    parser.add_argument('--chat', action='store_true', help="ask as a chat's user")
    parser.add_argument('--server', default='127.0.0.1:50051')
    parser.add_argument('--max_new_tokens', type=int, default=100)
    parser.add_argument('--temperature', type=float)
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
    with grpc.insecure_channel(args.server) as channel:
        for event in services.InferenceServiceStub(channel).GenerateStream(request):
            if event.HasField('delta'):
                print(event.delta.text, end='', flush=True)
            elif event.HasField('completed'):
                usage, attention = event.completed.usage, event.completed.attention
                print(f'\n[{usage.completion_tokens} tokens, {attention.mean_support_tokens:.1f} keys attended a row]')


if __name__ == '__main__':
    main()
