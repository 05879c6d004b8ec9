"""The image that run.sh has built: what is in it, what it says of itself, and what its programs do when they run in it."""

import errno
import json
import os
import pathlib
import re
import shutil
import stat

import pytest
import yaml

from confined import CONFIG, CUDA, MODEL_PLACE, PATIENCE, ROOT, Server, run_alone

PROJECT = pathlib.Path(__file__).parents[2]
COMPOSE = yaml.safe_load((PROJECT / "deploy" / "compose.yaml").read_text())["services"]["tauserve"]
BIN = "/opt/tauserve/bin"
STORY = "Once upon a time, there was a little fox named Mira. One day,"
# cuBLASLt alone has 542 MB.
MOST_MEGABYTES = 750 if CUDA else 150


def content():
    """Everything in the image; the folders that a runtime mounts upon are empty."""
    return [path for path in ROOT.rglob("*") if not path.is_relative_to(ROOT / MODEL_PLACE[1:])]


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running
        assert running.stop() == 0, running.log()


def test_size():
    megabytes = sum(path.lstat().st_size for path in content() if path.is_file() and not path.is_symlink()) / 1e6
    print(f"\ncontainer: image of {megabytes:.0f} MB")
    assert megabytes <= MOST_MEGABYTES


def test_programs_load_all_of_its_libraries_and_no_others():
    programs = sorted(f"{BIN}/{path.name}" for path in (ROOT / BIN[1:]).iterdir())
    expected = {"tauserve", "tauserve-cli", "libtauserve_sentencepiece.so"}
    if CUDA:
        expected |= {"libtauserve_cuda.so", "libcublasLt.so.13"}
    assert {os.path.basename(program) for program in programs} == expected
    (loader,) = (ROOT / "usr" / "lib64").iterdir()
    loaded = {loader.name}
    for program in programs:
        done = run_alone(f"/lib64/{loader.name}", "--list", program)
        assert done.returncode == 0 and "not found" not in done.stdout, done.stdout + done.stderr
        loaded |= {os.path.basename(path) for path in re.findall(r"=> (/\S+)", done.stdout)}
    present = {path.name for path in content() if re.search(r"\.so(\.|$)", path.name) and path.is_file()
               and not path.is_relative_to(ROOT / "etc")}
    assert present - expected == loaded - expected


def test_libraries_packages_and_licences_are_named():
    records = list((ROOT / "var/lib/dpkg/status.d").iterdir())
    assert {"libc6", "libgrpc29", "libdnnl2", "base-files"} < {record.name for record in records}
    for record in records:
        text = record.read_text()
        assert f"Package: {record.name}\n" in text and "\nVersion: " in text
        assert (ROOT / "usr/share/doc" / record.name / "copyright").stat().st_size > 0
    assert (ROOT / "opt/tauserve/LICENSE").read_text() == (PROJECT / "LICENSE").read_text()
    assert (ROOT / "etc/os-release").read_text().startswith("PRETTY_NAME=\"Debian GNU/Linux 12")


def test_nothing_raises_privileges_or_can_be_written_by_the_user():
    user = int(CONFIG["User"].split(":")[0])
    for path in content():
        entry = path.lstat()
        assert entry.st_uid != user and not entry.st_mode & (stat.S_ISUID | stat.S_ISGID), path
        assert path.is_symlink() or not entry.st_mode & stat.S_IWOTH, path
    assert not list(ROOT.rglob("sh")) and not list(ROOT.rglob("apt*"))


def test_configuration():
    assert CONFIG["User"] == "10001:10001"
    assert CONFIG["StopSignal"] == "SIGTERM"
    assert CONFIG["Entrypoint"][0] == f"{BIN}/tauserve"
    assert CONFIG["Cmd"] == ["--model=/models/recall-9m"]
    assert CONFIG["Env"] == [f"PATH={BIN}"]
    assert set(CONFIG["ExposedPorts"]) == {"50051/tcp", "9464/tcp"}
    version = re.search(r"project\(tauserve VERSION ([\d.]+)", (PROJECT / "CMakeLists.txt").read_text())[1]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in CONFIG["Labels"].items()}
    assert labels.items() >= {"title": "Tauserve", "version": version, "licenses": "Apache-2.0",
                              "revision": os.environ["TAUSERVE_IMAGE_REVISION"]}.items()
    assert labels["description"]


def test_compose_file_agrees():
    assert {port.rpartition(":")[2] + "/tcp" for port in COMPOSE["ports"]} == set(CONFIG["ExposedPorts"])
    assert COMPOSE["healthcheck"]["test"] == CONFIG["Healthcheck"]["Test"]
    for key, nanoseconds in [("interval", "Interval"), ("timeout", "Timeout"), ("start_period", "StartPeriod")]:
        assert COMPOSE["healthcheck"][key] == f"{CONFIG['Healthcheck'][nanoseconds] // 10 ** 9}s"
    assert "command" not in COMPOSE and "entrypoint" not in COMPOSE and "user" not in COMPOSE


def test_server_is_confined(server):
    print(f"\ncontainer: ready {server.start_seconds:.2f} s after its start")
    status = server.status()
    assert status["Uid"] == ["10001"] * 4 and status["Gid"] == ["10001"] * 4 and status["Groups"] == []
    assert status["NoNewPrivs"] == ["1"] and int(status["CapEff"][0], 16) == int(status["CapPrm"][0], 16) == 0
    assert status["NSpid"][-1] == "1"
    assert server.write_error("/opt/tauserve/bin/new") == errno.EROFS


def test_health_check(server):
    kind, *command = CONFIG["Healthcheck"]["Test"]
    assert kind == "CMD"
    done = server.execute(*command)
    assert (done.returncode, done.stdout) == (0, "SERVING\n"), done.stderr
    # Where no server runs it fails.
    assert run_alone(*command).returncode == 3


def test_call_from_another_container(server):
    def call(*arguments):
        process = server.neighbour("tauserve-cli", *arguments, "--json")
        out, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        return json.loads(out)

    # Not the address that a server of loopback alone would have.
    answer = call("generate", "--server=127.0.0.2:50051", "--temperature=0", "--max_new_tokens=8", STORY)
    assert answer["text"].strip() and answer["usage"]["completion_tokens"] == 8
    info = call("info", "--control=127.0.0.1:50052")
    assert info["commit"] == os.environ["TAUSERVE_IMAGE_REVISION"][:12]
    assert info["compiled_devices"] == (["cpu", "cuda"] if CUDA else ["cpu"])
    assert info["device"].startswith("cpu")
    outside = server.neighbour("tauserve-cli", "load", "--control=127.0.0.2:50052")
    outside.communicate(timeout=PATIENCE)
    assert outside.returncode == 3


def test_metrics(server):
    metrics = server.scrape()
    assert re.search(r"^tauserve_build_info\{.*\} 1$", metrics, re.MULTILINE)
    assert os.environ["TAUSERVE_IMAGE_REVISION"][:12] in metrics


def test_mounted_model_and_stop_while_a_request_runs(tmp_path):
    """The model is read-only, as the root; what runs when the stop signal comes is answered in full."""
    model = tmp_path / "mine"
    shutil.copytree(PROJECT / "models" / "recall-9m", model)
    with Server(f"--model={MODEL_PLACE}", model=model) as server:
        assert server.write_error(f"{MODEL_PLACE}/new") == errno.EROFS
        info = server.execute("tauserve-cli", "info", "--json")
        assert json.loads(info.stdout)["model"] == os.path.basename(MODEL_PLACE)
        request = server.neighbour("tauserve-cli", "generate", "--stream", "--ignore_eos", "--max_new_tokens=300", STORY)
        first = request.stdout.read(1)
        code = server.stop()
        rest, errors = request.communicate(timeout=PATIENCE)
        assert code == 0, server.log()
        assert request.returncode == 0 and len(first + rest) > 300, errors


def test_device_that_is_not_there_is_refused_in_words():
    done = run_alone(*CONFIG["Entrypoint"], *CONFIG["Cmd"], "--device=cuda")
    assert done.returncode not in (0, 127) and "device cuda" in done.stderr
