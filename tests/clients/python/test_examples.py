"""The examples run as their readers run them."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from server_process import PATIENCE

EXAMPLES = pathlib.Path(__file__).resolve().parents[3] / "clients" / "python" / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def python(server, *args):
    environment = dict(os.environ, TAUSERVE_SERVER=server.serving["grpc"], MPLBACKEND="agg")
    return subprocess.run([sys.executable, *map(str, args)], cwd=EXAMPLES, env=environment, capture_output=True, text=True,
                          timeout=PATIENCE)


def test_script(server):
    done = python(server, "stories.py", "--stories=2", "--max_new_tokens=8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("little fox named Mira") == 2 and done.stdout.count("keys attended a row") == 2
    server.wait_idle()


def test_script_of_a_refusal(server):
    done = python(server, "stories.py", "--max_new_tokens=10000000")
    assert done.returncode == 1 and done.stderr.startswith("INVALID_ARGUMENT")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(server, notebook, tmp_path):
    cells = json.loads(notebook.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code and not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    picture = tmp_path / "picture.png"
    script = tmp_path / "notebook.py"
    script.write_text("\n".join([*code, f"figure.savefig({str(picture)!r})"]))
    done = python(server, script)
    assert done.returncode == 0, done.stderr
    assert "keys a row" in done.stdout and picture.stat().st_size > 10000
    server.wait_idle()
