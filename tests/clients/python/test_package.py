"""The package as a stranger installs it: a wheel of the checkout and of an sdist, its types, its messages beside others'."""

import os
import pathlib
import subprocess
import sys
import venv
import zipfile

import grpc
import pytest
import tauserve
from protos import inference, inference_grpc
from requests_made import STORY, generation
from server_process import PATIENCE

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROJECT = ROOT / "clients" / "python"
PACKAGE = pathlib.Path(tauserve.__file__).parent


def build(project, out):
    """The wheel's file."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
                    f"--wheel-dir={out}", str(project)], check=True)
    (wheel,) = pathlib.Path(out).glob("*.whl")
    return wheel


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("RECORD")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(PROJECT, tmp_path_factory.mktemp("wheel"))


def test_the_wheel(wheel):
    files = contents(wheel)
    names = set(files)
    assert files["tauserve-0.1.0.dist-info/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert {"tauserve/py.typed", "tauserve/_proto/inference_pb2.py", "tauserve/_proto/inference_pb2.pyi",
            "tauserve/_proto/control_pb2.py", "tauserve-0.1.0.dist-info/licenses/LICENSE"} <= names
    assert {name.split("/")[0] for name in names} == {"tauserve", "tauserve-0.1.0.dist-info"}
    assert not any(name.startswith("tauserve/") and not name.endswith((".py", ".pyi", "py.typed")) for name in names)


def test_a_wheel_of_an_sdist_is_the_same(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)], cwd=PROJECT, check=True,
                   capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    subprocess.run(["tar", "-xf", sdist, "-C", tmp_path], check=True)
    assert contents(build(tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "again")) == contents(wheel)


def test_a_fresh_environment(wheel, server, tmp_path):
    """With what the package depends on from this one's, since a test downloads nothing."""
    venv.create(tmp_path, with_pip=False)
    python = tmp_path / "bin" / "python"
    (site,) = tmp_path.glob("lib/python3*/site-packages")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", f"--target={site}", str(wheel)],
                   check=True)
    depends = {str(pathlib.Path(module.__file__).parents[1]) for module in map(__import__, ("grpc", "jinja2", "tqdm"))}
    (site / "depends.pth").write_text("\n".join(sorted(depends)) + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-m", "tauserve", "generate", STORY, f"--server={server.serving['grpc']}", "--temperature=0",
                           "--max_new_tokens=4"], env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and done.stdout.startswith(" Mira was out"), done.stderr
    where = subprocess.run([python, "-c", "import tauserve; print(tauserve.__file__)"], env=environment, capture_output=True,
                           text=True, check=True)
    assert where.stdout.startswith(str(site))


def test_own_stubs_stay_importable(server):
    """`protos` has made modules tauserve.inference.v1, with messages of the same names."""
    with grpc.insecure_channel(server.serving["grpc"]) as channel:
        request = inference.GenerateRequest(input=generation(max_new_tokens=2))
        theirs = inference_grpc.InferenceServiceStub(channel).Generate(request, timeout=PATIENCE)
    with tauserve.Client(server.serving["grpc"], timeout=PATIENCE) as client:
        ours = client.generate(STORY, tauserve.GenerationOptions(temperature=0, max_new_tokens=2))
    assert ours.text == theirs.candidates[0].text


def test_stubs_of_another_version_are_no_conflict(tmp_path):
    code = """
from google.protobuf import descriptor_pb2, descriptor_pool
file = descriptor_pb2.FileDescriptorProto(name="tauserve/inference/v1/inference.proto", package="tauserve.inference.v1")
file.message_type.add(name="GenerateRequest")
descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
import tauserve
tauserve.Client("127.0.0.1:1").close()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


def test_everything_public_has_a_name():
    assert all(hasattr(tauserve, name) for name in tauserve.__all__)


def test_types(tmp_path):
    pytest.importorskip("mypy")
    environment = dict(os.environ, MYPYPATH=str(PACKAGE.parent)) if "site-packages" not in PACKAGE.parts else None
    files = sorted((PROJECT / "examples").glob("*.py"))
    for what in (["-p", "tauserve"], list(map(str, files))):
        done = subprocess.run([sys.executable, "-m", "mypy", "--strict", f"--config-file={PROJECT / 'pyproject.toml'}",
                               f"--cache-dir={tmp_path}", *what], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
