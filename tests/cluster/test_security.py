"""The whole of it over TLS: scheduler, light workers, replicas, client and streams, with mutual certificates."""

from __future__ import annotations

import asyncio
import datetime
import logging
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import Client, Scheduler, Worker
from distributed.comm import connect
from distributed.security import Security

import dask_fmware as fm
from dask_fmware.errors import DeploymentError
from dask_fmware.testing import InProcessCluster, deployment
from tests.cluster.flows import one, rag, shopping

TEXT = "what is said over an encrypted line"


class Authority:
    """A certificate authority of a test, which writes what it signs into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._sign(self.name, self._key.public_key(), is_authority=True))

    def security(self, name: str) -> Security:
        """Return what a process needs to speak for `name`."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert_file, key_file = self.folder / f"{name}-cert.pem", self.folder / f"{name}-key.pem"
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        cert_file.write_bytes(self._sign(subject, key.public_key()))
        plain = serialization.NoEncryption()
        key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
        files = {
            f"tls_{role}_{part}": str(file)
            for role in ("client", "scheduler", "worker")
            for part, file in (("cert", cert_file), ("key", key_file))
        }
        return Security(require_encryption=True, tls_ca_file=str(self.file), **files)

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, is_authority: bool = False) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Dask logs each handshake that is refused, with its traceback."""
    logger = logging.getLogger("distributed.comm.tcp")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


async def _use(client: Client) -> None:
    """Calls, branches, maps and loops, and a stream."""
    future = client.compute(one("x"))
    assert "".join([chunk.text async for chunk in fm.stream(future)]) == TEXT == (await future).text
    for bound in (rag(question="x"), shopping(message="order")):
        await client.compute(bound)


async def test_everything_speaks_tls_streams_and_bodies_included(authority: Authority) -> None:
    security = authority.security("cluster")
    rules = [{"when": "Intent of: search", "text": "search"}]
    async with InProcessCluster(deployment("small", "large", text=TEXT, rules=rules), security=security) as cluster:
        addresses = [cluster.scheduler.address, *cluster.scheduler.workers]
        assert all(address.startswith("tls://") for address in addresses)
        await _use(cluster.client)
        assert await cluster.client.compute(shopping(message="search"))  # maps submit through clients of their own
        assert (await fm.status(cluster.client))["failures"] == {}


async def test_who_has_no_certificate_of_ours_is_not_let_in(authority: Authority, tmp_path: Path) -> None:
    async with InProcessCluster(deployment("small"), security=authority.security("cluster")) as cluster:
        (tmp_path / "theirs").mkdir()
        stranger = Authority(tmp_path / "theirs", "theirs").security("stranger")
        for address in (cluster.scheduler.address, *cluster.scheduler.workers):
            with pytest.raises(OSError):  # noqa: PT011 - a refused handshake, in the words of the platform
                await connect(address, timeout=1, **stranger.get_connection_args("client"))
            plain = asyncio.open_connection(*address.removeprefix("tls://").split(":"))
            reader, writer = await plain
            writer.write(b"hello")
            assert not (await reader.read()).startswith(b"{"), "an unencrypted connection is answered"
            writer.close()
        with pytest.raises((OSError, ssl.SSLError)):
            await Client(cluster.scheduler.address, asynchronous=True, security=stranger, timeout=1)


async def test_the_runtime_is_installed_on_a_tls_cluster_of_someone_elses(authority: Authority) -> None:
    security = authority.security("cluster")
    common: dict[str, Any] = {"security": security, "protocol": "tls://", "dashboard_address": ":0"}
    labels = {"fm-model:small": 1, "fm-accelerator:cpu": 1}
    async with (
        Scheduler(host="127.0.0.1", dashboard=False, **common) as scheduler,
        Worker(scheduler.address, name="light", nthreads=2, **common),
        Worker(scheduler.address, name="replica", nthreads=6, resources=labels, **common),
        Client(scheduler.address, asynchronous=True, security=security) as client,
    ):
        await fm.install(client, deployment("small", text=TEXT))
        await fm.wait_ready(client, timeout_s=30)
        future = client.compute(one("x"))
        assert "".join([chunk.text async for chunk in fm.stream(future)]) == TEXT


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_processes_get_certificates_made_for_the_cluster_alone() -> None:
    made = deployment("small", text=TEXT)
    with fm.LocalModelCluster(made, dashboard_address=None, security=True) as cluster, Client(cluster) as client:
        fm.wait_ready(client)
        assert cluster.scheduler_address.startswith("tls://")
        future = client.compute(one("x"))
        assert "".join(chunk.text for chunk in fm.stream(future)) == TEXT


def test_encryption_that_is_not_required_is_refused() -> None:
    with pytest.raises(DeploymentError, match=r"require_encryption is off.*write Security\(require_encryption=True"):
        fm.LocalModelCluster(deployment("small"), security=Security(require_encryption=False, tls_ca_file="x.pem"))
