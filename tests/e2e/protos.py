"""Python stubs of the server's protos, generated once for each test run into a temporary folder."""

import atexit
import pathlib
import shutil
import sys
import tempfile

from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _generate():
    folder = tempfile.mkdtemp(prefix="tauserve-stubs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    well_known = pathlib.Path(protoc.__file__).parent / "_proto"
    files = sorted(str(p.relative_to(ROOT / "proto")) for p in (ROOT / "proto").rglob("*.proto"))
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    if protoc.main(arguments + files) != 0:
        raise RuntimeError("protoc failed")
    sys.path.insert(0, folder)


_generate()

from google.rpc import error_details_pb2, status_pb2  # noqa: E402,F401
from tauserve.inference.v1 import control_pb2 as control  # noqa: E402,F401
from tauserve.inference.v1 import control_pb2_grpc as control_grpc  # noqa: E402,F401
from tauserve.inference.v1 import inference_pb2 as inference  # noqa: E402,F401
from tauserve.inference.v1 import inference_pb2_grpc as inference_grpc  # noqa: E402,F401
