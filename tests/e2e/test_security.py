"""TLS, client certificates and tokens: who gets in, who does not, and what changes without a restart."""

import hashlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from certificates import Authority, credentials, in_pem, openssl, served_certificate
from protos import control, control_grpc, inference, inference_grpc
from requests_made import STORY, generation, long_generation, read_until
from server_process import MODEL, PATIENCE, Server, wait_until
from test_cli import command
from test_start import fails

UNAVAILABLE, UNAUTHENTICATED, PERMISSION_DENIED = (
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def outcome(call):
    """The code of how `call` ended, and its message."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def get_model(channel, token=None):
    metadata = [("authorization", f"Bearer {token}")] if token else None
    stub = inference_grpc.InferenceServiceStub(channel)
    return outcome(lambda: stub.GetModel(inference.GetModelRequest(), metadata=metadata, timeout=PATIENCE))[0]


def get_load(channel, token=None):
    metadata = [("authorization", f"Bearer {token}")] if token else None
    stub = control_grpc.ControlServiceStub(channel)
    return outcome(lambda: stub.GetLoad(control.GetLoadRequest(), metadata=metadata, timeout=PATIENCE))[0]


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    authority, stranger = Authority(folder), Authority(folder, "stranger")

    class Pki:
        ca, other_ca = authority, stranger
        server, client = authority.sign("server"), authority.sign("client")
        foreign_client = stranger.sign("foreign-client")

    return Pki


def tls_flags(cert, key, client_ca=None):
    flags = [f"--tls_cert={cert}", f"--tls_key={key}"]
    return flags + ([f"--tls_client_ca={client_ca}"] if client_ca else [])


@pytest.fixture(scope="module")
def tls_server(pki):
    with Server(*tls_flags(*pki.server)) as running:
        yield running


def test_tls_on_both_ports(tls_server, pki):
    believed = credentials(pki.ca)
    channel = tls_server.channel(credentials=believed)
    assert get_model(channel) == grpc.StatusCode.OK
    assert get_load(tls_server.channel("control", credentials=believed)) == grpc.StatusCode.OK
    stub = inference_grpc.InferenceServiceStub(channel)
    events = list(stub.GenerateStream(inference.GenerateStreamRequest(input=generation()), timeout=PATIENCE))
    assert events[-1].WhichOneof("event") == "completed"


@pytest.mark.parametrize("port", ["grpc", "control"])
def test_no_plain_text_beside_tls(tls_server, port):
    ask = get_model if port == "grpc" else get_load
    assert ask(tls_server.channel(port)) == UNAVAILABLE


def test_clients_know_another_authoritys_server(tls_server, pki):
    assert get_model(tls_server.channel(credentials=credentials(pki.other_ca))) == UNAVAILABLE


@pytest.mark.parametrize("port", ["grpc", "control"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls_versions(tls_server, port):
    def handshake(version):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")  # so that it is the server who refuses old versions
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2"])
        host, number = tls_server.serving[port].rsplit(":", 1)
        with socket.create_connection((host, int(number)), timeout=PATIENCE) as plain:
            with context.wrap_socket(plain) as secure:
                return secure.version()

    assert handshake(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    assert handshake(ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    for old in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(old)


def test_mutual_tls(pki):
    with Server(*tls_flags(*pki.server, pki.ca.cert)) as server:
        for port, ask in (("grpc", get_model), ("control", get_load)):
            known = credentials(pki.ca, pki.client)
            assert ask(server.channel(port, credentials=known)) == grpc.StatusCode.OK
            assert ask(server.channel(port, credentials=credentials(pki.ca))) == UNAVAILABLE
            foreign = credentials(pki.ca, pki.foreign_client)
            assert ask(server.channel(port, credentials=foreign)) == UNAVAILABLE


@pytest.fixture
def installed(pki, tmp_path):
    """Copies of the server's files, to be replaced: certificate, key, client CA."""
    files = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "client_ca.pem"
    for source, copy in zip((*pki.server, pki.ca.cert), files):
        shutil.copy(source, copy)
    return files


def test_certificate_is_replaced_without_a_restart(pki, installed):
    cert, key, _ = installed
    with Server(*tls_flags(cert, key)) as server:
        address = server.serving["grpc"]
        old = server.channel(credentials=credentials(pki.ca))
        assert get_model(old) == grpc.StatusCode.OK
        assert served_certificate(address) == in_pem(pki.server[0])
        stub = inference_grpc.InferenceServiceStub(old)
        stream = stub.GenerateStream(inference.GenerateStreamRequest(input=long_generation()))
        read_until(stream, "delta")

        new_cert, new_key = pki.ca.sign("renewed")
        cert.write_bytes(new_cert.read_bytes())  # for as long as the key is the old one, both stay as they were
        wait_until(lambda: server.events("tls_files_not_reloaded"), "the log to tell of the mismatch")
        assert "is not the key" in server.events("tls_files_not_reloaded")[0]["message"]
        assert served_certificate(address) == in_pem(pki.server[0])
        assert get_model(server.channel(credentials=credentials(pki.ca))) == grpc.StatusCode.OK

        key.write_bytes(new_key.read_bytes())
        wait_until(lambda: server.events("tls_files_reloaded"), "the new files")
        for port in ("grpc", "control"):
            assert served_certificate(server.serving[port]) == in_pem(new_cert)
        assert get_model(server.channel(credentials=credentials(pki.ca))) == grpc.StatusCode.OK
        read_until(stream, "delta")  # connections go on
        stream.cancel()

        key.unlink()
        wait_until(lambda: len(server.events("tls_files_not_reloaded")) == 2, "the log to tell of the missing file")
        assert str(key) in server.events("tls_files_not_reloaded")[1]["message"]
        assert served_certificate(address) == in_pem(new_cert)


def test_client_authorities_are_replaced_without_a_restart(pki, installed):
    cert, key, client_ca = installed
    with Server(*tls_flags(cert, key, client_ca)) as server:
        known, foreign = (credentials(pki.ca, who) for who in (pki.client, pki.foreign_client))
        assert get_model(server.channel(credentials=foreign)) == UNAVAILABLE
        client_ca.write_text("nothing")
        wait_until(lambda: server.events("tls_files_not_reloaded"), "the log to tell of the broken file")
        assert get_model(server.channel(credentials=known)) == grpc.StatusCode.OK
        client_ca.write_bytes(pki.other_ca.cert.read_bytes())
        wait_until(lambda: server.events("tls_files_reloaded"), "the new authority")
        assert get_model(server.channel(credentials=foreign)) == grpc.StatusCode.OK
        assert get_model(server.channel(credentials=known)) == UNAVAILABLE


def test_expired_certificate_is_told(pki):
    expired = pki.ca.sign("expired", days=-1)
    with Server(*tls_flags(*expired)) as server:
        assert server.events("tls_certificate_expired")[0]["file"] == str(expired[0])
        assert get_model(server.channel(credentials=credentials(pki.ca))) == UNAVAILABLE


@pytest.mark.parametrize("name", ["missing certificate", "missing key", "missing client CA", "folder", "no certificate",
                                  "cut certificate", "no key", "key with a password", "another's key", "weak key",
                                  "empty client CA", "cut client CA"])
def test_files_that_cannot_be_served(pki, tmp_path, name):
    cert, key = pki.server
    missing, empty = tmp_path / "missing.pem", tmp_path / "empty.pem"
    empty.write_text("")
    cut = tmp_path / "cut.pem"
    lines = cert.read_text().splitlines()
    cut.write_text("\n".join(lines[:4] + lines[-1:]))
    locked = tmp_path / "locked.key"
    openssl("ec", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked)
    weak_cert, weak_key = tmp_path / "weak.pem", tmp_path / "weak.key"
    openssl("req", "-x509", "-newkey", "rsa:1024", "-nodes", "-keyout", weak_key, "-out", weak_cert,
            "-subj", "/CN=weak")
    flags, parts = {
        "missing certificate": ((missing, key), ["--tls_cert", missing, "No such file"]),
        "missing key": ((cert, missing), ["--tls_key", missing, "No such file"]),
        "missing client CA": ((cert, key, missing), ["--tls_client_ca", missing, "No such file"]),
        "folder": ((tmp_path, key), ["--tls_cert", tmp_path, "directory"]),
        "no certificate": ((key, key), ["--tls_cert", key, "no certificate"]),
        "cut certificate": ((cut, key), ["--tls_cert", cut]),
        "no key": ((cert, cert), ["--tls_key", cert, "no private key"]),
        "key with a password": ((cert, locked), ["--tls_key", locked, "without a password"]),
        "another's key": ((cert, pki.client[1]), ["--tls_key", pki.client[1], "not the key", cert]),
        "weak key": ((weak_cert, weak_key), ["--tls_cert", weak_cert, "too small"]),
        "empty client CA": ((cert, key, empty), ["--tls_client_ca", empty, "no certificate"]),
        "cut client CA": ((cert, key, cut), ["--tls_client_ca", cut, "broken"]),
    }[name]
    message = fails(f"--model={MODEL}", *tls_flags(*flags))
    for part in parts:
        assert str(part) in message


@pytest.mark.parametrize("flags, parts", [
    (["--tls_cert=a.pem"], ["--tls_cert", "without --tls_key"]),
    (["--tls_key=a.key"], ["--tls_key", "without --tls_cert"]),
    (["--tls_client_ca=ca.pem"], ["--tls_client_ca", "--tls_cert"]),
])
def test_flags_that_belong_together(flags, parts):
    message = fails(f"--model={MODEL}", *flags, code=2)
    for part in parts:
        assert part in message


# --- tokens

TOKENS = {"user": "inference", "operator": "control", "both": "inference,control"}


def line(token, scopes):
    return f"{hashlib.sha256(token.encode()).hexdigest()} {scopes}\n"


@pytest.fixture
def tokens_file(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("# for tests\n" + "".join(line(f"token-of-{name}", scopes) for name, scopes in TOKENS.items()))
    return file


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    file = tmp_path_factory.mktemp("guarded") / "tokens"
    file.write_text("".join(line(f"token-of-{name}", scopes) for name, scopes in TOKENS.items()))
    with Server(f"--auth_tokens_file={file}", "--log_level=debug") as running:
        yield running


def bearer(name):
    return [("authorization", f"Bearer token-of-{name}")]


METHODS = {
    "grpc": ["/tauserve.inference.v1.InferenceService/" + name for name in (
        "Generate", "GenerateStream", "Tokenize", "Detokenize", "GetModel", "NoSuchMethod")]
    + ["/no.such.Service/Method"],
    "control": ["/tauserve.inference.v1.ControlService/" + name for name in (
        "GetServerInfo", "GetLoad", "AbortRequests", "Drain", "ClearPrefixCache", "NoSuchMethod")],
}


@pytest.mark.parametrize("port, method", [(port, method) for port, methods in METHODS.items() for method in methods])
def test_every_method_asks_for_a_token(guarded, port, method):
    stranger = "operator" if port == "grpc" else "user"
    call = guarded.channel(port).unary_unary(method)
    for metadata, code, part in (
            ([], UNAUTHENTICATED, "a token is needed"),
            ([("authorization", "Bearer nobody's")], UNAUTHENTICATED, "not known"),
            ([("authorization", "Bearer ")], UNAUTHENTICATED, ""),
            ([("authorization", "token-of-both")], UNAUTHENTICATED, "Bearer TOKEN"),
            (bearer("both") * 2, UNAUTHENTICATED, "twice"),
            (bearer(stranger), PERMISSION_DENIED, "no scope")):
        ended, message = outcome(lambda: call(b"", metadata=metadata, timeout=PATIENCE))
        assert ended == code and part in message, message
    if method.endswith("/Drain"):
        return  # would end the server for the others
    for name in ("both", "user" if port == "grpc" else "operator"):
        ended, _ = outcome(lambda: call(b"", metadata=bearer(name), timeout=PATIENCE))
        assert ended not in (UNAUTHENTICATED, PERMISSION_DENIED)


def test_reflection_asks_for_a_token_and_health_does_not(guarded):
    for port, allowed, denied in (("grpc", "user", "operator"), ("control", "operator", "user")):
        channel = guarded.channel(port)
        reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        for metadata, code in ((None, UNAUTHENTICATED), (bearer(denied), PERMISSION_DENIED),
                               (bearer(allowed), grpc.StatusCode.OK)):
            assert outcome(lambda: list(reflect(iter([request]), metadata=metadata, timeout=PATIENCE)))[0] == code
        health = health_pb2_grpc.HealthStub(channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE).status == serving
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == serving
        watch.cancel()


def test_refusals_are_counted(guarded):
    before = guarded.metrics()
    assert get_model(guarded.channel()) == UNAUTHENTICATED
    assert get_load(guarded.channel("control"), "token-of-user") == PERMISSION_DENIED
    assert get_load(guarded.channel("control"), "token-of-both") == grpc.StatusCode.OK
    after = guarded.metrics()
    for code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        name = "unauthorized_calls_total"
        assert after.sum(name, code=code) - before.sum(name, code=code) == 1
    assert after.sum("requests_total") == before.sum("requests_total")


def test_many_calls_with_tokens_that_leave_at_any_moment(guarded):
    """Nothing is left behind, and calls are still answered, whatever moment clients leave at."""
    stub = inference_grpc.InferenceServiceStub(guarded.channel())

    def leave(seed):
        for i in range(40):
            metadata = bearer(("user", "nobody", "operator", "both")[(seed + i) % 4])
            call = stub.Generate.future(inference.GenerateRequest(input=long_generation()), metadata=metadata)
            if i % 3:
                threading.Event().wait(0.002 * (i % 5))
            call.cancel()

    threads = [threading.Thread(target=leave, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load = control_grpc.ControlServiceStub(guarded.channel("control")).GetLoad
    wait_until(lambda: load(control.GetLoadRequest(), metadata=bearer("both")).running_requests == 0, "idleness")
    assert get_model(guarded.channel(), "token-of-user") == grpc.StatusCode.OK


def test_neither_tokens_nor_prompts_are_logged(guarded):
    stub = inference_grpc.InferenceServiceStub(guarded.channel())
    secret = generation("the secret word is zanzibar", stopping={"stop_strings": ["timbuktu"]},
                        cache={"salt": "saltlick"})
    for metadata in (bearer("user"), bearer("nobody"), None):
        outcome(lambda: stub.Generate(inference.GenerateRequest(input=secret), metadata=metadata, timeout=PATIENCE))
        outcome(lambda: stub.Tokenize(inference.TokenizeRequest(text="zanzibar"), metadata=metadata, timeout=PATIENCE))
    assert guarded.events("call_unauthorized") and guarded.events("request_end")
    for part in ("zanzibar", "timbuktu", "saltlick", "token-of"):
        assert part not in guarded.log()


def test_prompts_are_logged_if_asked_for():
    def log(*flags):
        with Server("--chat_template=chatml", *flags) as server:
            stub = inference_grpc.InferenceServiceStub(server.channel())
            chat = inference.ChatPrompt(messages=[{"role": "user", "content": "zanzibar?"}])
            for prompt in ("the word is zanzibar", [0, 400, 401], chat):
                message = generation(None if prompt is chat else prompt, request_id="shown")
                if prompt is chat:
                    message.chat.CopyFrom(chat)
                stub.Generate(inference.GenerateRequest(input=message), timeout=PATIENCE)
            return server.events("prompt"), server.log()

    prompts, _ = log("--log_prompts", "--log_level=debug")
    assert [p["request_id"] for p in prompts] == ["shown"] * 3
    assert [p.get("text") or p.get("token_ids") or p.get("chat") for p in prompts] == [
        "the word is zanzibar", [0, 400, 401], [{"role": "user", "content": "zanzibar?"}]]
    assert "zanzibar" not in log("--log_prompts")[1]


def test_tokens_are_replaced_without_a_restart(tokens_file):
    with Server(f"--auth_tokens_file={tokens_file}") as server:
        channel = server.channel()
        assert get_model(channel, "token-of-user") == grpc.StatusCode.OK
        good = tokens_file.read_text()
        tokens_file.write_text(good + "tau_in-clear inference\n")
        wait_until(lambda: server.events("auth_tokens_not_reloaded"), "the log to tell of the broken line")
        message = server.events("auth_tokens_not_reloaded")[0]["message"]
        assert str(tokens_file) in message and "line 5" in message and "in-clear" not in server.log()
        assert get_model(channel, "token-of-user") == grpc.StatusCode.OK
        tokens_file.write_text(line("token-of-user", "control") + line("token-of-new", "inference"))
        wait_until(lambda: server.events("auth_tokens_reloaded"), "the new tokens")
        assert get_model(channel, "token-of-user") == PERMISSION_DENIED
        assert get_model(channel, "token-of-both") == UNAUTHENTICATED
        assert get_model(channel, "token-of-new") == grpc.StatusCode.OK
        tokens_file.unlink()
        wait_until(lambda: len(server.events("auth_tokens_not_reloaded")) == 2, "the log to tell of the missing file")
        assert get_model(channel, "token-of-new") == grpc.StatusCode.OK


@pytest.mark.parametrize("text, part", [(None, "No such file"), ("", "no token"), ("hello\n", "line 1"),
                                        ("# a\n" + line("a", "admin"), "line 2")])
def test_token_files_that_cannot_be_used(tmp_path, text, part):
    file = tmp_path / "tokens"
    if text is not None:
        file.write_text(text)
    message = fails(f"--model={MODEL}", f"--auth_tokens_file={file}")
    assert "--auth_tokens_file" in message and str(file) in message and part in message


def test_tokens_in_clear_on_the_network_are_told(tokens_file, pki):
    flags = [f"--auth_tokens_file={tokens_file}", "--listen=0.0.0.0:0"]
    with Server(*flags) as server:
        assert [w["address"] for w in server.events("tokens_without_tls")] == ["0.0.0.0:0"]
    with Server(*flags, *tls_flags(*pki.server)) as server:
        assert not server.events("tokens_without_tls")
    with Server(flags[0]) as server:
        assert not server.events("tokens_without_tls")


# --- clients

@pytest.fixture(scope="module")
def fortress(pki, tmp_path_factory):
    """TLS, client certificates and a token that tauserve-cli has made; and the token's file."""
    folder = tmp_path_factory.mktemp("fortress")
    token = folder / "token"
    binary = os.path.join(os.environ["TAUSERVE_BIN_DIR"], "tauserve-cli")
    made = subprocess.run([binary, "token", f"--out={token}", "--scopes=inference,control"], capture_output=True,
                          text=True, check=True)
    (folder / "tokens").write_text(made.stdout)
    with Server(*tls_flags(*pki.server, pki.ca.cert), f"--auth_tokens_file={folder / 'tokens'}") as running:
        running.token_file = token
        yield running


def run_cli(server, *args, environment=()):
    return subprocess.run(command(server, *args), env=dict(os.environ, **dict(environment)), capture_output=True,
                          text=True, timeout=PATIENCE)


def test_cli_with_flags(fortress, pki):
    flags = [f"--tls_ca={pki.ca.cert}", f"--tls_cert={pki.client[0]}", f"--tls_key={pki.client[1]}"]
    token = f"--token_file={fortress.token_file}"
    shown = run_cli(fortress, "generate", STORY, "--temperature=0", "--max_new_tokens=4", *flags, token)
    assert shown.returncode == 0 and shown.stdout.startswith(" Mira"), shown.stderr
    assert json.loads(run_cli(fortress, "load", *flags, token).stdout)["draining"] is False
    assert run_cli(fortress, "health", *flags).stdout == "SERVING\n"
    assert run_cli(fortress, "info", *flags, token, "--tls_server_name=host.test").returncode == 0
    wrong_name = run_cli(fortress, "info", *flags, token, "--tls_server_name=other.test")
    assert wrong_name.returncode == 3 and "UNAVAILABLE" in wrong_name.stderr
    without = run_cli(fortress, "info", *flags)
    assert without.returncode == 1 and without.stderr.startswith("tauserve-cli: UNAUTHENTICATED: a token is needed")
    assert run_cli(fortress, "info", flags[0], token).returncode == 3  # no certificate
    half = run_cli(fortress, "info", flags[0], flags[1])
    assert half.returncode == 2 and "--tls_key" in half.stderr


def test_cli_with_the_environment(fortress, pki):
    environment = {"TAUSERVE_TLS_CA": str(pki.ca.cert), "TAUSERVE_TLS_CERT": str(pki.client[0]),
                   "TAUSERVE_TLS_KEY": str(pki.client[1]), "TAUSERVE_TOKEN": fortress.token_file.read_text()}
    done = run_cli(fortress, "info", environment=environment)
    assert done.returncode == 0 and json.loads(done.stdout)["device"], done.stderr
    environment["TAUSERVE_TOKEN"] = "tau_wrong"
    done = run_cli(fortress, "info", environment=environment)
    assert done.returncode == 1 and "not known" in done.stderr and "tau_wrong" not in done.stderr


# --- tracing

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


@pytest.mark.parametrize("name, values, expected", [
    ("valid", [TRACEPARENT], TRACE_ID), ("none", [], None), ("invalid", ["00-xyz"], None),
    ("zero", [TRACEPARENT.replace(TRACE_ID, "0" * 32)], None)])
@pytest.mark.parametrize("refused", [False, True])
def test_trace_id_of_a_request(server, name, values, expected, refused):
    request_id = f"trace-{name}-{refused}"
    request = inference.GenerateRequest(input=generation(temperature=-1.0 if refused else 0.0, request_id=request_id))
    code, _ = outcome(lambda: server.stub.Generate(request, metadata=[("traceparent", v) for v in values],
                                                   timeout=PATIENCE))
    assert code == (grpc.StatusCode.INVALID_ARGUMENT if refused else grpc.StatusCode.OK)
    ends = wait_until(lambda: [e for e in server.events("request_end") if e["request_id"] == request_id],
                      "the log line")
    assert ends[0].get("trace_id") == expected
