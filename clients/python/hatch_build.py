"""Makes the modules of the API's messages, tauserve/_proto/*_pb2.py, when a wheel is built.

Of an editable installation they lie in the source folder, where git ignores them; build it anew when the API changes.
"""

import pathlib
import shutil
import tempfile

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "tauserve/inference/v1"


def proto_folder(root):
    """Of an sdist, else of the repository."""
    for folder in (root / "proto", root.parents[1] / "proto"):
        if (folder / PACKAGE).is_dir():
            return folder
    raise FileNotFoundError(f"{PACKAGE}/*.proto: neither in {root} nor in its repository")


def generate(protos, out):
    """Writes a module and its type stub for each file of the API into the folder `out`."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as made:
        well_known = pathlib.Path(protoc.__file__).parent / "_proto"
        files = sorted(str(file) for file in (protos / PACKAGE).glob("*.proto"))
        arguments = ["protoc", f"-I{protos}", f"-I{well_known}", f"--python_out={made}", f"--pyi_out={made}"]
        if protoc.main(arguments + files) != 0:
            raise RuntimeError("protoc failed")
        for module in (pathlib.Path(made) / PACKAGE).iterdir():
            text = module.read_text()
            if module.suffix == ".py":
                text = with_own_pool(text)
            (out / module.name).write_text(text)


def with_own_pool(text):
    """Messages of other programs' modules, made from another version of the API, are then no conflict."""
    default = "_descriptor_pool.Default()"
    if text.count(default) != 1:
        raise RuntimeError(f"protoc's modules have changed: {text.count(default)} times {default}")
    text = text.replace(default, "_pool")
    place = "_sym_db = _symbol_database.Default()\n"
    if text.count(place) != 1:
        raise RuntimeError("protoc's modules have changed: no symbol database")
    return text.replace(place, place + "from tauserve._proto import POOL as _pool\n")


class ProtoHook(BuildHookInterface):
    def initialize(self, version, build_data):
        root = pathlib.Path(self.root)
        editable = version == "editable"
        self.made = root / "src/tauserve/_proto" if editable else pathlib.Path(tempfile.mkdtemp())
        generate(proto_folder(root), self.made)
        if not editable:
            build_data["force_include"][str(self.made)] = "tauserve/_proto"

    def finalize(self, version, build_data, artifact_path):
        if version != "editable":
            shutil.rmtree(self.made)
