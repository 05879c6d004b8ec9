"""TLS, client certificates and tokens."""

import os
import pathlib
import subprocess

import pytest
import tauserve
from certificates import Authority
from command_line import run
from requests_made import STORY
from server_process import Server
from tauserve import Credentials, GenerationOptions, RetryPolicy

ONCE = RetryPolicy(max_attempts=1)


@pytest.fixture(scope="module")
def fortress(tmp_path_factory):
    """A server that asks for a client's certificate and a token, and what its clients need."""
    folder = tmp_path_factory.mktemp("fortress")
    authority = Authority(folder)
    cert, key = authority.sign("server")
    cli = pathlib.Path(os.environ["TAUSERVE_BIN_DIR"]) / "tauserve-cli"
    made = subprocess.run([cli, "token", f"--out={folder / 'token'}"], capture_output=True, text=True, check=True)
    (folder / "tokens").write_text(made.stdout)
    with Server(f"--tls_cert={cert}", f"--tls_key={key}", f"--tls_client_ca={authority.cert}",
                f"--auth_tokens_file={folder / 'tokens'}") as running:
        running.authority, running.token_file = authority, folder / "token"
        running.identity = authority.sign("client")
        yield running


def files(server):
    cert, key = server.identity
    return {"tls_ca": server.authority.cert, "tls_cert": cert, "tls_key": key, "token_file": server.token_file}


def test_certificates_and_token(fortress, connect):
    client = connect(fortress.serving["grpc"], credentials=Credentials.from_files(**files(fortress)))
    assert client.generate(STORY, GenerationOptions(temperature=0, max_new_tokens=2)).text.startswith(" Mira")
    assert isinstance(list(client.stream(STORY, GenerationOptions(max_new_tokens=2)))[-1], tauserve.StreamCompleted)
    named = connect(fortress.serving["grpc"],
                    credentials=Credentials.from_files(**files(fortress), tls_server_name="host.test"))
    assert named.get_model().model == "recall-9m"


def test_the_token_is_for_inference_alone(fortress, connect):
    control = connect(fortress.serving["control"], control=True, credentials=Credentials.from_files(**files(fortress)))
    with pytest.raises(tauserve.PermissionDeniedError):
        control.get_load()


@pytest.mark.parametrize("change, kind", [
    (dict(token="tau_wrong"), tauserve.UnauthenticatedError), (dict(token=None), tauserve.UnauthenticatedError),
    (dict(tls_cert=None, tls_key=None), tauserve.UnavailableError), (dict(tls_server_name="other.test"), tauserve.UnavailableError),
    (dict(tls_ca=None, tls_cert=None, tls_key=None), tauserve.UnavailableError)])
def test_strangers(fortress, connect, change, kind):
    right = vars(Credentials.from_files(**files(fortress)))
    client = connect(fortress.serving["grpc"], credentials=Credentials(**{**right, **change}), retry=ONCE)
    for ask in (client.get_model, lambda: list(client.stream(STORY))):
        with pytest.raises(kind) as caught:
            ask()
        assert "tau_wrong" not in str(caught.value)


def test_another_authority_is_not_believed(fortress, connect, tmp_path):
    stranger = Authority(tmp_path, "stranger")
    credentials = Credentials.from_files(**dict(files(fortress), tls_ca=stranger.cert))
    with pytest.raises(tauserve.UnavailableError):
        connect(fortress.serving["grpc"], credentials=credentials, retry=ONCE).get_model()


def test_credentials_are_checked_and_kept_secret():
    with pytest.raises(ValueError, match="tls_key"):
        Credentials(tls_ca=b"x", tls_cert=b"y")
    with pytest.raises(ValueError, match="tls_ca"):
        Credentials(tls_cert=b"x", tls_key=b"y")
    with pytest.raises(ValueError) as caught:
        Credentials(token="tau two")
    assert "tau two" not in str(caught.value)
    assert "secret" not in repr(Credentials(tls_ca=b"a", tls_cert=b"b", tls_key=b"secret", token="secret"))


def test_the_command_line(fortress):
    given = [f"--{name}={value}" for name, value in files(fortress).items()]
    environment = {f"TAUSERVE_{name.upper()}": str(value) for name, value in files(fortress).items()}
    environment["TAUSERVE_TOKEN"] = fortress.token_file.read_text()
    for flags, variables in ((given, {}), ([], environment)):
        done = run("info", *flags, server=fortress, environment=variables)
        assert done.returncode == 0 and "recall-9m" in done.stdout, done.stderr
    wrong = run("info", server=fortress, environment=dict(environment, TAUSERVE_TOKEN="tau_wrong"))
    assert wrong.returncode == 1 and wrong.stderr.startswith("tauserve: UNAUTHENTICATED") and "tau_wrong" not in wrong.stderr
    half = run("info", *given[:2], server=fortress)
    assert half.returncode == 2 and "tls_key" in half.stderr
    absent = run("info", "--tls_ca=/nowhere.pem", server=fortress)
    assert absent.returncode == 2 and "/nowhere.pem" in absent.stderr
