"""Certificates for tests, made by the openssl program."""

import ssl
import subprocess

import grpc

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


class Authority:
    """Signs certificates; its own is NAME.pem in `folder`."""

    def __init__(self, folder, name="ca"):
        self.folder, self.cert, self.key = folder, folder / f"{name}.pem", folder / f"{name}.key"
        openssl("req", "-x509", *KEY, "-keyout", self.key, "-out", self.cert, "-days", 2, "-subj", f"/CN={name}")

    def sign(self, name, days=2):
        """(certificate, key): files of a certificate for this machine's loopback, and for the name host.test."""
        cert, key, request = (self.folder / f"{name}.{kind}" for kind in ("pem", "key", "csr"))
        openssl("req", *KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}", "-addext",
                "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:host.test")
        openssl("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial", "-days", days,
                "-copy_extensions", "copy", "-out", cert)
        return cert, key


def credentials(authority, identity=None):
    """A channel's: whom it believes, and who it is."""
    cert, key = (file.read_bytes() for file in identity) if identity else (None, None)
    return grpc.ssl_channel_credentials(authority.cert.read_bytes(), key, cert)


def served_certificate(address):
    """What a new connection is shown, in PEM."""
    host, port = address.rsplit(":", 1)
    return ssl.get_server_certificate((host, int(port)))


def in_pem(file):
    """The file's certificate, as `served_certificate` writes it."""
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(file.read_text()))
