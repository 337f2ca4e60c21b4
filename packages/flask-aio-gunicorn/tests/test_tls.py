"""TLS."""

from __future__ import annotations

import http.client
import shutil
import signal
import ssl
import subprocess

import pytest

HANG = 60


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory with ca.pem, and certificates with keys of a server and of a client."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl command")
    directory = tmp_path_factory.mktemp("tls")

    def run(*arguments):
        subprocess.run([openssl, *arguments], cwd=directory, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca = ["-subj", "/CN=test CA", "-addext", "keyUsage=critical,keyCertSign"]
    run("req", "-x509", *key, *ca, "-days", "30", "-keyout", "ca.key", "-out", "ca.pem")
    for name in ("server", "client"):
        run("req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (directory / "extensions").write_text(
            "subjectAltName = IP:127.0.0.1\nauthorityKeyIdentifier = keyid\n"
        )
        issuer = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
        output = ["-days", "30", "-extfile", "extensions", "-out", f"{name}.pem"]
        run("x509", "-req", "-in", f"{name}.csr", *issuer, *output)
    return directory


@pytest.fixture
def start(gunicorn, files):
    """Start gunicorn with the server's certificate."""

    def start(*options, **keywords):
        certificate = ["--certfile", str(files / "server.pem")]
        key = ["--keyfile", str(files / "server.key")]
        return gunicorn(*certificate, *key, *options, **keywords)

    return start


@pytest.fixture
def context(files):
    """What a client that trusts the server connects with."""
    return ssl.create_default_context(cafile=str(files / "ca.pem"))


def get(server, context, path="/environ"):
    """Make a request; return its JSON, and the cipher."""
    with context.wrap_socket(server.connect(), server_hostname="127.0.0.1") as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        with http.client.HTTPResponse(connection) as response:
            response.begin()
            assert response.status == 200
            return response.read().decode(), connection.cipher()[0]


def test_certificate(start, context):
    """A request over TLS is served, its scheme is https; what is no TLS harms nobody."""
    server = start("--worker-connections", "1", "--keep-alive", "1")
    assert server.addresses[0].startswith("https://127.0.0.1:")
    for _ in range(3):
        # The one connection is free again after each handshake that fails.
        with server.connect() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            while connection.recv(65536):
                pass
        with server.connect():
            pass
        with server.connect() as connection:
            connection.sendall(b"\x16\x03\x01")
        with pytest.raises(ssl.SSLCertVerificationError):
            get(server, ssl.create_default_context())
        answer, _ = get(server, context)
        assert '"wsgi.url_scheme":"https"' in answer
        assert f'"SERVER_PORT":"{server.port}"' in answer
    assert server.stop() == 0
    assert "Traceback" not in server.output
    assert "[ERROR]" not in server.output


@pytest.mark.parametrize("worker", ["AioWorker", "AioUVLoopWorker"])
def test_handshake_that_never_ends_does_not_hold_up_a_stop(start, context, worker):
    """A client that has connected and says nothing gets no more than a moment."""
    if worker == "AioUVLoopWorker":
        pytest.importorskip("uvloop")
    server = start("--graceful-timeout", "300", worker=f"flask_aio_gunicorn.{worker}")
    with server.connect() as silent:
        get(server, context)  # The backlog is served in order: the silent one is accepted.
        server.send_signal(signal.SIGTERM)
        # Less than the 60 seconds after which the event loop gives it up.
        assert server.process.wait(45) == 0
        assert silent.recv(1) == b""
    assert "Traceback" not in server.output


def test_client_certificate_is_demanded(start, context, files):
    """With --cert-reqs 2 and --ca-certs only a client with a certificate is served."""
    server = start("--ca-certs", str(files / "ca.pem"), "--cert-reqs", "2")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        get(server, context)
    context.load_cert_chain(files / "client.pem", files / "client.key")
    assert '"wsgi.url_scheme":"https"' in get(server, context)[0]
    assert "Traceback" not in server.output


def test_ciphers(start, context):
    """--ciphers bounds what a client may choose."""
    wanted = "ECDHE-ECDSA-AES256-GCM-SHA384"
    server = start("--ciphers", wanted)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert get(server, context)[1] == wanted
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        get(server, context)


def test_ssl_context_hook(start, context):
    """The context that the hook of gunicorn.conf.py returns is the one that is used."""
    server = start(
        config="""
import ssl

def ssl_context(config, default_ssl_context_factory):
    context = default_ssl_context_factory()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
"""
    )
    assert get(server, context)[1].startswith("TLS_")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        get(server, context)
