"""A certificate for localhost and 127.0.0.1, for tests alone. Valid from 2026 to 2126."""

from __future__ import annotations

from pathlib import Path

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBmjCCAUGgAwIBAgIUP4hl3gg90/aPP2KLUhdejFIEg0IwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTE0MzM0MFoYDzIxMjYxMDI4
MTQzMzQwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASfal5EZFCyY1rUX3HqFWcjZcs2CBDdzElrSf0zQYzANm+rp3UecWyc
tQ/KPrq2Ia+kvLM0A1poxjmd2HjdvV/uo28wbTAdBgNVHQ4EFgQUsfY58CH/Zk+a
bQthKIGyXaqwt0gwHwYDVR0jBBgwFoAUsfY58CH/Zk+abQthKIGyXaqwt0gwGgYD
VR0RBBMwEYIJbG9jYWxob3N0hwR/AAABMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZI
zj0EAwIDRwAwRAIgeMLs+TsKERB4C6AOhg52Zlvc1krBEoSBWAxT+OprlUwCIHiw
PYU60GEAQ5mRaZ692WOSFbZF71CS5WZ3v8KVKkDB
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgTyslfh5nlD4ljRlN
C8JWhW4lHmLRTmrVVcbcs4TDhOuhRANCAASfal5EZFCyY1rUX3HqFWcjZcs2CBDd
zElrSf0zQYzANm+rp3UecWyctQ/KPrq2Ia+kvLM0A1poxjmd2HjdvV/u
-----END PRIVATE KEY-----
"""


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """Files with the certificate and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_text(CERTIFICATE, encoding="utf-8")
    key.write_text(KEY, encoding="utf-8")
    return certificate, key
