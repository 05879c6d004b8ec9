"""Runs the tests and timings of tests/gpu/run.sh with built programs and writes one JSON file."""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "recall-9m"
KERNEL_TESTS = ["elementwise_test", "linear_test", "top_logits_test", "attention_test", "attention_adversarial_test",
                "page_copy_test", "gpu_fault_test"]
# Small shapes of every kind: instrumented kernels are many times slower.
SANITIZED = {
    "elementwise_test": "*",
    "linear_test": "*",
    "page_copy_test": "*",
    "top_logits_test": "*EveryStep*:*DoNotDepend*",
    "attention_test": "*OddLengthsAndPageEdges*:*ManyRaggedSequences*:*HeadsOfDifferentAlpha*:*DistanceBound*",
    "model_embedded_model_test": "*BFloat16*",
}
TOOLS = {
    "memcheck": list(SANITIZED),
    "racecheck": ["elementwise_test", "top_logits_test", "attention_test"],
    "initcheck": ["elementwise_test", "attention_test"],
    "synccheck": ["elementwise_test", "top_logits_test", "attention_test"],
}
# Single kernels against references of their own; those that aren't built, for another GPU, are left out.
CHECKS = ["prefill_check", "decode_check", "linear_check", "backward_check"]
SANITIZED_CHECK = ["backward_check", "check", "d64 mixed gqa"]
NOT_OURS = "cutlass|cublas"
# racecheck does not see that a warp's reads, its barrier and one lane's arrival at an mbarrier come in that order, as Hopper's
# producers and consumers have it: where every lane arrives itself, it has nothing to say. Nor does it know relaxed accesses.
NOT_FOLLOWED = {"racecheck": "|PrefillSearch|PrefillDense|FlashSm90"}
TOOL_FLAGS = {"synccheck": ["--num-cuda-barriers=100000"]}
STEP_SHAPES = ["16", "1", "512", "1", "4096", "1", "16384", "1", "4096", "16"]


def run(command, timeout, **environment):
    """(exit code, output, seconds); 124 after `timeout` seconds."""
    start = time.monotonic()
    try:
        done = subprocess.run([str(c) for c in command], cwd=ROOT, timeout=timeout, text=True, errors="replace",
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment})
        code, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
        code, output = 124, output.decode(errors="replace") if isinstance(output, bytes) else output
    return code, output, round(time.monotonic() - start, 2)


def device():
    query = "name,driver_version,memory.total"
    code, output, _ = run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], 60)
    return output.strip() if code == 0 else "unknown"


def google_test(binary, timeout, tool=(), filter_="*"):
    """One GoogleTest program on the GPU: what passed and what failed, with the messages."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [*tool, binary, f"--gtest_filter={filter_}", f"--gtest_output=json:{report.name}"]
        code, output, seconds = run(command, timeout, TAUSERVE_TEST_DEVICE="cuda")
        text = pathlib.Path(report.name).read_text()
    result = {"ok": code == 0, "exit_code": code, "seconds": seconds, "tests": 0, "failures": []}
    if text:
        parsed = json.loads(text)
        result["tests"] = parsed["tests"]
        for suite in parsed["testsuites"]:
            for case in suite["testsuite"]:
                for failure in case.get("failures", []):
                    result["failures"].append({"test": f"{suite['name']}.{case['name']}",
                                               "message": failure["failure"][:600]})
    if code != 0 and (tool or not result["failures"]):
        result["output"] = output[-3000:]
    lines = [line for line in output.splitlines() if "largest logit difference" in line or line.startswith("seed ")]
    if lines:
        result["lines"] = lines
    return result


def kernels(bin_):
    return {name: google_test(bin_ / name, 600) for name in KERNEL_TESTS}


def checks(bin_):
    results = {}
    for name in CHECKS:
        if not (bin_ / name).exists():
            continue
        code, output, seconds = run([bin_ / name, "check"], 600)
        results[name] = {"ok": code == 0, "exit_code": code, "seconds": seconds, "lines": output.splitlines()[-1:]}
        if code != 0:
            results[name]["output"] = output[-3000:]
    return results


def training(bin_):
    """The Python package's operators and what the recipe makes of them, where there is PyTorch."""
    if run([sys.executable, "-c", "import torch"], 120)[0] != 0:
        return {"operators": {"ok": True, "reason": "no PyTorch for this Python"}}
    package = os.environ.get("TAUSERVE_PYTHON_PACKAGE", str(bin_.parent / "python"))
    results = {}
    for name, file in (("operators", "test_training.py"), ("recipe", "test_recipe.py")):
        code, output, seconds = run([sys.executable, "-m", "unittest", f"tests/gpu/{file}"], 600, PYTHONPATH=package)
        results[name] = {"ok": code == 0, "exit_code": code, "seconds": seconds, "lines": output.splitlines()[-3:]}
        if code != 0:
            results[name]["output"] = output[-3000:]
    return results


def sanitizers(bin_):
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not pathlib.Path(sanitizer).exists():
        return {"skipped": {"ok": True, "reason": "no compute-sanitizer on the PATH"}}
    results = {}
    for tool, names in TOOLS.items():
        for name in names:
            wrapper = [sanitizer, f"--tool={tool}", "--error-exitcode=99", *TOOL_FLAGS.get(tool, []),
                       f"--kernel-name-exclude=regex={NOT_OURS}{NOT_FOLLOWED.get(tool, '')}"]
            results[f"{tool} {name}"] = google_test(bin_ / name, 240, wrapper, SANITIZED[name])
    if (bin_ / SANITIZED_CHECK[0]).exists():
        for tool in ("memcheck", "initcheck", "synccheck"):
            wrapper = [sanitizer, f"--tool={tool}", "--error-exitcode=99", *TOOL_FLAGS.get(tool, [])]
            code, output, seconds = run([*wrapper, bin_ / SANITIZED_CHECK[0], *SANITIZED_CHECK[1:]], 240)
            result = {"ok": code == 0, "exit_code": code, "seconds": seconds, "output": output[-2000:]}
            results[f"{tool} {SANITIZED_CHECK[0]}"] = result
    return results


def model(bin_):
    """The embedded model against its training code, and random ones of every kind against NumPy."""
    results = {"embedded_model": google_test(bin_ / "model_embedded_model_test", 300)}
    script = ROOT / "tests" / "server" / "model" / "logits_test.py"
    with tempfile.TemporaryDirectory() as work:
        code, output, seconds = run([sys.executable, script, bin_ / "model_logits", work,
                                     time.time_ns() % 10 ** 9, "cuda-bfloat16"], 300)
    worst = re.findall(r"\): (\d\S+)", output)
    results["logits"] = {"ok": code == 0, "exit_code": code, "seconds": seconds, "models": len(worst),
                         "worst": max(map(float, worst), default=None)}
    if code != 0:
        results["logits"]["output"] = output[-3000:]
    return results


def serving(bin_):
    """A server on the GPU that is asked for facts in long documents, and for what it counted."""
    results = {}
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            [bin_ / "tauserve", f"--model={MODEL}", "--device=cuda", "--listen=127.0.0.1:0",
             "--control_listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0"],
            stdout=subprocess.PIPE, stderr=log, cwd=ROOT)
        line = server.stdout.readline()
        if line:
            address = json.loads(line)["grpc"]
            for size, count in (("2k", 12), ("16k", 8), ("64k", 2)):
                results[f"recall-{size}"] = recall(bin_, address, size, count)
        server.terminate()
        try:
            code = server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()
            code = server.wait()
        log.seek(0)
        said = log.read().decode(errors="replace")
    results["server"] = {"ok": bool(line) and code == 0, "exit_code": code, "log": said[-2000:]}
    return results


def recall(bin_, address, size, count):
    path = ROOT / "models" / "prompts" / f"recall-{size}.jsonl"
    cases = [json.loads(line) for line in path.read_text().splitlines()][:count]
    right, seconds, wrong = 0, [], []
    for case in cases:
        code, output, took = run(
            [bin_ / "tauserve-cli", "generate", f"--server={address}", "--temperature=0", "--max_new_tokens=24",
             f"--prompts={path}", f"--prompt_id={case['id']}", "--json"], 300)
        try:
            answer = json.loads(output)
            text = answer["text"].strip()
        except (ValueError, KeyError):
            text = output[-300:]
        right += code == 0 and text == case["answer"]
        seconds.append(took)
        if text != case["answer"]:
            wrong.append({"id": case["id"], "expected": case["answer"], "got": text})
    # bfloat16 may turn an answer here or there.
    return {"ok": right >= len(cases) - 1, "right": right, "of": len(cases), "wrong": wrong,
            "seconds": sorted(seconds)}


def steps(bin_):
    code, output, seconds = run([bin_ / "step_bench", MODEL, "cuda", *STEP_SHAPES], 300)
    shapes = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    result = {"ok": code == 0, "seconds": seconds, "shapes": shapes}
    if code != 0:
        result["output"] = output[-2000:]
    return {"recall-9m": result}


def refusals(bin_):
    """What must not start: (flags, environment, parts of the one line that says why)."""
    flags = [bin_ / "tauserve", f"--model={MODEL}", "--device=cuda", "--listen=127.0.0.1:0",
             "--control_listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0"]
    cases = {
        "hidden GPU": ([], {"CUDA_VISIBLE_DEVICES": "-1"}, ["no NVIDIA GPU"]),
        "float32": (["--dtype=float32"], {}, ["--dtype", "float32", "bfloat16"]),
        "cache too large": ([f"--kv_cache_bytes={1 << 40}"], {}, ["KV cache", "1099.", "free", "--kv_cache_bytes"]),
    }
    results = {}
    for name, (more, environment, parts) in cases.items():
        code, output, seconds = run(flags + more, 60, **environment)
        ok = code == 1 and len(output.strip().splitlines()) == 1 and all(p in output for p in parts)
        results[name] = {"ok": ok, "exit_code": code, "seconds": seconds, "lines": [output.strip()[-500:]]}
    return results


PARTS = {"refusals": refusals, "kernels": kernels, "checks": checks, "training": training, "model": model,
         "serving": serving, "steps": steps, "sanitizers": sanitizers}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="folder of the built programs")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "gpu-results.json")
    parser.add_argument("--only", default=",".join(PARTS), help="of " + ",".join(PARTS))
    arguments = parser.parse_args()
    bin_ = arguments.bin.resolve()
    wanted = arguments.only.split(",")
    unknown = set(wanted) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}")
    results = {"device": device(), "parts": {}}
    failed = []
    print(f"device: {results['device']}", flush=True)
    for part in wanted:
        results["parts"][part] = PARTS[part](bin_)
        for name, result in results["parts"][part].items():
            print(f"{'ok    ' if result['ok'] else 'FAILED'} {part} {name}: " + summary(result), flush=True)
            if not result["ok"]:
                failed.append(f"{part} {name}")
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"results: {arguments.out}")
    passed = sum(len(p) for p in results["parts"].values()) - len(failed)
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed else 0


def summary(result):
    parts = []
    for key in ("tests", "models", "worst", "right", "of", "seconds", "exit_code"):
        if key in result:
            parts.append(f"{key} {result[key]}")
    for failure in result.get("failures", [])[:6]:
        parts.append("\n    " + failure["test"] + ": " + re.sub(r"\s+", " ", failure["message"])[:300])
    for key in ("wrong", "lines", "shapes"):
        for item in result.get(key, []):
            parts.append("\n    " + (item if isinstance(item, str) else json.dumps(item)))
    if not result["ok"]:
        for key in ("output", "log"):
            if key in result:
                parts.append("\n    " + result[key][-1200:].replace("\n", "\n    "))
    return " ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
