"""The harness's own CA and the certificates of its servers. Nothing of the product's is used here."""

import datetime
import ipaddress
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def pem(thing):
    if isinstance(thing, x509.Certificate):
        return thing.public_bytes(serialization.Encoding.PEM)
    return thing.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                               serialization.NoEncryption())


class Authority:
    """A root. `leaf` makes servers' certificates, good ones and bad ones."""

    def __init__(self, title="corpus root"):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = (
            x509.CertificateBuilder().subject_name(name(title)).issuer_name(name(title))
            .public_key(self.key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 10 * DAY).not_valid_after(NOW + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
            .sign(self.key, hashes.SHA256()))

    def leaf(self, names, start=NOW - DAY, end=NOW + 10 * DAY, key=None, digest=None, signer=None):
        """`(certificate, key)` for DNS names and addresses; `signer` is another root or False for self-signed."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        alternatives = []
        for entry in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(entry)))
            except ValueError:
                alternatives.append(x509.DNSName(entry))
        by = self if signer is None else signer
        issuer = by.certificate.subject if by else name(names[0])
        certificate = (
            x509.CertificateBuilder().subject_name(name(names[0])).issuer_name(issuer)
            .public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(start).not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(by.key if by else key, digest or hashes.SHA256()))
        return certificate, key

    def server(self, dir, names, alpn=("http/1.1",), **how):
        """A TLS context for a server of these names; its files lie in `dir`."""
        certificate, key = self.leaf(names, **how)
        stem = dir / f"{names[0].replace('*', 'any')}-{x509.random_serial_number() % 10**8}"
        stem.with_suffix(".pem").write_bytes(pem(certificate))
        stem.with_suffix(".key").write_bytes(pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        context.files = stem.with_suffix(".pem"), stem.with_suffix(".key")
        return context


def small_rsa():
    return rsa.generate_private_key(65537, 1024)
