"""What a key can be bound to, behind one small interface: an HSM6 (`keys`) or a TPM (`tpm2`)."""

from __future__ import annotations

import hashlib
from typing import Protocol

from crfs import keys, luks, tpm2
from crfs.model import HSM6, TPM2


class Binding(Protocol):
    """What a module that keeps keys has to be able to do. Its failures are HsmErrors."""

    TITLE: str  # for messages
    IN_INITRAMFS: tuple[str, ...]  # parts of names that its initramfs has to have

    def active_services(self) -> tuple[str, ...]:
        """Services that run now and hold the device, so that they have to be stopped for it."""

    def take(self) -> None:
        """Stop them."""

    def give_back(self, services: tuple[str, ...]) -> None:
        """Start again what was active before."""

    def ask(self) -> None:
        """See that the device answers."""

    def make_key(self) -> bytes:
        """A new random key."""

    def seal(self, key: bytes) -> bytes:
        """The key in a form that only this device opens, which has been proven."""

    def unseal(self, sealed: bytes) -> bytes:
        """The plain key."""

    def attach(self, device: str, sealed: bytes) -> None:
        """Keep the sealed key in the device's LUKS header, if that is where it belongs."""

    def attached(self, device: str, sealed: bytes) -> bool:
        """Whether the sealed key is there, if that is where it belongs."""

    def sealed_key(self, device: str) -> bytes:
        """The sealed key of an encrypted root in use, whose header is on the device."""


_KINDS: dict[str, Binding] = {HSM6: keys, TPM2: tpm2}


def named(kind: str) -> Binding:
    """The binding of a kind: HSM6 or TPM2."""
    return _KINDS[kind]


def kind_of(device: str) -> str:
    """To what the key of a LUKS device is bound, asked of its header."""
    return TPM2 if luks.tokens(device, tpm2.TOKEN) else HSM6


def digest(key: bytes) -> str:
    """What a key is known by. It is as random as it is long: nobody can guess it from this."""
    return hashlib.sha256(key).hexdigest()
