"""A simulated Zymbit HSM6: a process outside the Pi, at the other end of a serial line.

The secret exists here only. What the Pi gets to see are random bytes, sealed and unsealed data,
and refusals. Run as

    python3 -m crfs.rehearsal.hsm --state hsm.json --line line.sock --control control.sock

The line speaks the protocol described in guest/zkline.h. The control socket is the harness's: one
JSON object a line, `{"do": "set", "answering": "silent"}`, answered by one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

BLOB_MAGIC = b"ZKSIM1"
NONCE_BYTES = 16
TAG_BYTES = 32
MAX_RANDOM = 1 << 16
LINE_LIMIT = 4 << 20
SLOW_S = 3.0
RESTART_S = 1.0  # after its address was changed
CHANNELS = 2
MAX_FOREIGN_KEYS = 512
# By the number of the curve: secp256r1, secp256k1, ed25519, x25519.
PUBLIC_KEY_BYTES = (64, 64, 32, 32)
SELF_DESTRUCT = 2  # bit of a perimeter or battery action; bit 0 is "notify"
ANSWERING = ("ok", "silent", "slow", "wrong")

REFUSED = -1
BAD_REQUEST = -22
BAD_BLOB = -74
NO_KEY = -2


class Refusal(Exception):
    """The HSM will not do it. `code` is negative; the text says why."""

    def __init__(self, text: str, code: int = REFUSED) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class State:
    """All that a module keeps, also without power. `secret` is hex, empty once destroyed.

    `card` and `board` are what is in the Pi now; `bound_card` and `bound_board` what production
    mode is locked to. `answering` is one of ANSWERING. Battery in volts. `perimeter` has the
    epoch second of the first event of each channel, 0 for none; `temperature` is in degrees
    Celsius, `clock_ahead` by how many seconds its clock is ahead of the world's.
    """

    secret: str = ""
    serial: str = ""
    card: str = "card-1"
    board: str = "board-1"
    production: bool = False
    bound_card: str = ""
    bound_board: str = ""
    answering: str = "ok"
    destroyed_by: str = ""
    battery: float = 3.0
    battery_threshold: float = 2.3
    battery_action: int = 0
    perimeter: list[int] = field(default_factory=lambda: [0] * CHANNELS)
    perimeter_actions: list[int] = field(default_factory=lambda: [0] * CHANNELS)
    temperature: float = 41.5
    drift: float = 0.25
    clock_ahead: int = 0
    i2c_address: int = 0x30
    led: str = "off"
    foreign_keys: list[str] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)


class Hsm:
    """One module: its state in a file, its crypto, and the answer to each request."""

    def __init__(self, path: Path) -> None:
        """Take up the module whose state is in `path`; a new one is made if there is none."""
        self.path = path
        self.back_at = 0.0  # by time.monotonic(), when it restarts
        if path.exists():
            known = {item.name for item in fields(State)}
            stored = json.loads(path.read_text())
            self.state = State(**{key: value for key, value in stored.items() if key in known})
        else:
            self.state = State()
            self.renew()

    def renew(self) -> None:
        """Become another module of the same type: new secret, development mode."""
        old = self.state
        self.state = State(
            secret=secrets.token_hex(32),
            serial=f"0001{secrets.token_hex(4)}",
            card=old.card,
            board=old.board,
            counters=old.counters,
        )
        self.save()

    def save(self) -> None:
        """Make the state last."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(self.path.name + ".new")
        unfinished.write_text(json.dumps(asdict(self.state), indent=1) + "\n")
        unfinished.replace(self.path)

    def count(self, what: str, number: int = 1) -> None:
        """Count an event of the kind `what`, or `number` of them."""
        self.state.counters[what] = self.state.counters.get(what, 0) + number

    # --- crypto -------------------------------------------------------------------------------

    def seal(self, plain: bytes) -> bytes:
        """Encrypt and sign `plain` with the module's secret."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        body = BLOB_MAGIC + nonce + self._mask(plain, nonce)
        return body + self._tag(body)

    def unseal(self, blob: bytes) -> bytes:
        """Check and decrypt a sealed blob. Raises Refusal if it is not this module's own."""
        body, tag = blob[:-TAG_BYTES], blob[-TAG_BYTES:]
        if not body.startswith(BLOB_MAGIC) or len(body) < len(BLOB_MAGIC) + NONCE_BYTES:
            raise Refusal("not a sealed file", BAD_BLOB)
        if not hmac.compare_digest(tag, self._tag(body)):
            raise Refusal("sealed by another module, or damaged", BAD_BLOB)
        nonce = body[len(BLOB_MAGIC) :][:NONCE_BYTES]
        return self._mask(body[len(BLOB_MAGIC) + NONCE_BYTES :], nonce)

    def _key(self, purpose: bytes) -> bytes:
        return hmac.digest(bytes.fromhex(self.state.secret), purpose, "sha256")

    def _tag(self, body: bytes) -> bytes:
        return hmac.digest(self._key(b"sign"), body, "sha256")

    def _mask(self, data: bytes, nonce: bytes) -> bytes:
        """Add the key stream HMAC(key, nonce, counter); doing it twice gives the data back."""
        key = self._key(b"encrypt")
        stream = bytearray()
        for counter in range((len(data) + 31) // 32):
            stream += hmac.digest(key, nonce + counter.to_bytes(8, "big"), "sha256")
        return bytes(a ^ b for a, b in zip(data, stream, strict=False))

    # --- what the Pi may ask ------------------------------------------------------------------

    def answer(self, verb: str, payload: bytes) -> tuple[int, bytes]:
        """Do what the Pi asks; the code (0 or more: fine) and the payload of the answer."""
        handler = self._handlers().get(verb)
        if handler is None:
            return BAD_REQUEST, b"unknown request"
        try:
            code, result = handler(payload)
        except Refusal as refusal:
            self.count("refused")
            code, result = refusal.code, f"{refusal} ({refusal.code})".encode()
        except (ValueError, IndexError):
            code, result = BAD_REQUEST, b"malformed request (-22)"
        self.save()
        return code, result

    def _handlers(self) -> dict[str, Callable[[bytes], tuple[int, bytes]]]:
        return {
            "ping": self._ping,
            "random": self._random,
            "lock": self._lock,
            "unlock": self._unlock,
            "led": self._led,
            "binding": self._binding,
            "lock-binding": self._lock_binding,
            "perimeter": lambda _: (0, " ".join(map(str, self.state.perimeter)).encode()),
            "perimeter-clear": self._perimeter_clear,
            "perimeter-action": self._perimeter_action,
            "battery": lambda _: (0, f"{self.state.battery:.3f}".encode()),
            "battery-action": self._battery_action,
            "battery-threshold": self._battery_threshold,
            "temperature": lambda _: (0, f"{self.state.temperature:.2f}".encode()),
            "drift": lambda _: (0, f"{self.state.drift:.3f}".encode()),
            "time": lambda _: (0, str(int(time.time()) + self.state.clock_ahead).encode()),
            "model": lambda _: (0, b"HSM6 (simulated)"),
            "firmware": lambda _: (0, b"01.01-sim"),
            "serial": lambda _: (0, self.state.serial.encode()),
            "i2c": self._i2c,
            "foreign-key": self._foreign_key,
            "public-key": self._public_key,
            "slots": self._slots,
        }

    def _require_trust(self) -> None:
        """Raise unless the module is whole and, in production mode, in its own card and board."""
        state = self.state
        if state.destroyed_by:
            raise Refusal(f"{state.destroyed_by}: the keys have been destroyed")
        if state.production and (state.card, state.board) != (state.bound_card, state.bound_board):
            raise Refusal("bound to another host")

    def _ping(self, _: bytes) -> tuple[int, bytes]:
        return 0, b""

    def _random(self, payload: bytes) -> tuple[int, bytes]:
        count = int(payload)
        if not 0 < count <= MAX_RANDOM:
            raise ValueError
        self.count("random")
        return 0, secrets.token_bytes(count)

    def _lock(self, payload: bytes) -> tuple[int, bytes]:
        self._require_trust()
        self.count("locks")
        return 0, self.seal(payload)

    def _unlock(self, payload: bytes) -> tuple[int, bytes]:
        self._require_trust()
        plain = self.unseal(payload)
        self.count("unlocks")
        if self.state.answering == "wrong":
            return 0, secrets.token_bytes(len(plain))
        return 0, plain

    def _led(self, payload: bytes) -> tuple[int, bytes]:
        self.state.led = payload.decode()
        return 0, b""

    def _binding(self, _: bytes) -> tuple[int, bytes]:
        state = self.state
        here = (state.card, state.board) == (state.bound_card, state.bound_board)
        return 0, f"{int(state.production)}{int(here)}".encode()

    def _lock_binding(self, _: bytes) -> tuple[int, bytes]:
        self._require_trust()
        if self.state.production:
            raise Refusal("the binding is locked already")
        self.lock_binding()
        return 0, b""

    def lock_binding(self) -> None:
        """Production mode from now on, bound to the card and board that are here."""
        self.state.production = True
        self.state.bound_card = self.state.card
        self.state.bound_board = self.state.board

    def _perimeter_clear(self, _: bytes) -> tuple[int, bytes]:
        self.state.perimeter = [0] * CHANNELS
        return 0, b""

    def _perimeter_action(self, payload: bytes) -> tuple[int, bytes]:
        channel, actions = map(int, payload.split())
        if not 0 <= channel < CHANNELS:
            raise ValueError
        self.state.perimeter_actions[channel] = actions
        return 0, b""

    def _battery_action(self, payload: bytes) -> tuple[int, bytes]:
        self.state.battery_action = int(payload)
        return 0, b""

    def _battery_threshold(self, payload: bytes) -> tuple[int, bytes]:
        self.state.battery_threshold = float(payload)
        return 0, b""

    def _i2c(self, payload: bytes) -> tuple[int, bytes]:
        address = int(payload)
        if not (0x30 <= address <= 0x37 or 0x60 <= address <= 0x67):
            raise ValueError
        self.state.i2c_address = address
        self.back_at = time.monotonic() + RESTART_S
        return 0, b""

    def _foreign_key(self, payload: bytes) -> tuple[int, bytes]:
        curve, key = payload[0], payload[1:]
        if curve >= len(PUBLIC_KEY_BYTES) or len(key) != PUBLIC_KEY_BYTES[curve]:
            raise ValueError
        if len(self.state.foreign_keys) == MAX_FOREIGN_KEYS:
            raise Refusal("no slot is free")
        self.state.foreign_keys.append(key.hex())
        return 15 + len(self.state.foreign_keys), b""

    def _public_key(self, payload: bytes) -> tuple[int, bytes]:
        slot, foreign = map(int, payload.split())
        if foreign:
            index = slot - 16
            if not 0 <= index < len(self.state.foreign_keys):
                raise Refusal("no key in this slot", NO_KEY)
            return 0, bytes.fromhex(self.state.foreign_keys[index])
        if slot not in (0, 1, 2):
            raise Refusal("no key in this slot", NO_KEY)
        # Bytes of the right length only: nothing here can sign with it.
        half = [self._key(b"public%d%d" % (slot, part)) for part in (0, 1)]
        return 0, half[0] + half[1]

    def _slots(self, payload: bytes) -> tuple[int, bytes]:
        foreign = payload == b"1"
        slots = range(16, 16 + len(self.state.foreign_keys)) if foreign else range(3)
        numbers = [MAX_FOREIGN_KEYS if foreign else 640, len(slots), *slots]
        return 0, " ".join(map(str, numbers)).encode()

    # --- what may happen to it ----------------------------------------------------------------

    def control(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out an order of the harness and return the state without the secret.

        {"do": "get"}; {"do": "set", FIELD: VALUE, ...} with any field of State;
        {"do": "lock-binding"}; {"do": "tamper", "channel": 0}; {"do": "self-destruct"};
        {"do": "swap"}: another module takes its place; {"do": "seal" | "unseal", "data": HEX}.
        """
        what = order.get("do")
        extra: dict[str, Any] = {}
        if what == "set":
            self._set({key: value for key, value in order.items() if key != "do"})
        elif what == "lock-binding":
            self.lock_binding()
        elif what == "tamper":
            self._tamper(int(order.get("channel", 0)))
        elif what == "self-destruct":
            self._destroy("self-destructed")
        elif what == "swap":
            self.renew()
        elif what == "seal":
            extra["data"] = self.seal(bytes.fromhex(order["data"])).hex()
        elif what == "unseal":
            extra["data"] = self.unseal(bytes.fromhex(order["data"])).hex()
        elif what != "get":
            raise ValueError(f"unknown order {what!r}")
        self.save()
        shown = asdict(self.state)
        del shown["secret"]
        return {**shown, **extra}

    def _set(self, values: dict[str, Any]) -> None:
        for key, value in values.items():
            if key == "secret" or not hasattr(self.state, key):
                raise ValueError(f"no such setting: {key}")
            if key == "answering" and value not in ANSWERING:
                raise ValueError(f"answering is one of {', '.join(ANSWERING)}")
            setattr(self.state, key, value)
        low = self.state.battery < self.state.battery_threshold
        if low and self.state.battery_action & SELF_DESTRUCT:
            self._destroy("battery low, self-destructed")

    def _tamper(self, channel: int) -> None:
        if not self.state.perimeter[channel]:
            self.state.perimeter[channel] = int(time.time())
        self.count("tampers")
        if self.state.perimeter_actions[channel] & SELF_DESTRUCT:
            self._destroy("tampered")

    def _destroy(self, why: str) -> None:
        self.state.secret = ""
        self.state.destroyed_by = why


def checksum(text: str) -> str:
    """The sum that ends each line: low 16 bits of the sum of its bytes, 4 hex digits."""
    return f"{sum(text.encode('latin-1')) & 0xFFFF:04x}"


def parse_request(line: bytes) -> tuple[str, str, bytes] | None:
    """Sequence, verb and payload of a request line; None for anything that is not one."""
    text = line.decode("latin-1").strip("\r\n\0")
    start = text.rfind("@")
    body, _, total = text[start:].rpartition(" ")
    words = body.split(" ")
    if start < 0 or len(words) != 3 or checksum(body) != total:
        return None
    try:
        payload = b"" if words[2] == "-" else bytes.fromhex(words[2])
    except ValueError:
        return None
    return words[0][1:], words[1], payload


def format_answer(sequence: str, code: int, payload: bytes) -> bytes:
    """The line that answers request `sequence`."""
    body = f"={sequence} {code} {payload.hex() or '-'}"
    return f"\n{body} {checksum(body)}\n".encode()


class Server:
    """The two sockets of a module: the Pi's line and the harness's control."""

    def __init__(self, hsm: Hsm) -> None:
        self.hsm = hsm

    async def line(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the Pi until it hangs up."""
        try:
            while data := await reader.readline():
                began = time.monotonic()
                request = parse_request(data)
                if request is None or self.hsm.state.answering == "silent":
                    continue
                if self.hsm.state.answering == "slow":
                    await asyncio.sleep(SLOW_S)
                await asyncio.sleep(max(0.0, self.hsm.back_at - began))
                sequence, verb, payload = request
                code, result = self.hsm.answer(verb, payload)
                writer.write(format_answer(sequence, code, result))
                await writer.drain()
                # So that a boot can be timed without what the simulator itself takes.
                self.hsm.count("busy_us", round((time.monotonic() - began) * 1e6))
        except (ConnectionError, ValueError):
            pass  # a Pi without power, or a line beyond all limits: it will connect again
        finally:
            writer.close()

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry out the harness's orders until it hangs up."""
        try:
            while data := await reader.readline():
                try:
                    reply = self.hsm.control(json.loads(data))
                except (ValueError, KeyError, IndexError, TypeError, Refusal) as error:
                    reply = {"error": str(error)}
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


async def serve(hsm: Hsm, line: Path, control: Path) -> None:
    """Serve both sockets until the process is ended."""
    server = Server(hsm)
    for path in (line, control):
        path.unlink(missing_ok=True)
    # The control socket comes last: when it is there, the line is, too.
    pi = await asyncio.start_unix_server(server.line, str(line), limit=LINE_LIMIT)
    harness = await asyncio.start_unix_server(server.control, str(control), limit=LINE_LIMIT)
    async with pi, harness:
        await asyncio.gather(pi.serve_forever(), harness.serve_forever())


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description="A simulated Zymbit HSM6.")
    parser.add_argument("--state", type=Path, required=True, help="file that keeps the module")
    parser.add_argument("--line", type=Path, required=True, help="unix socket for the Pi")
    parser.add_argument("--control", type=Path, required=True, help="unix socket for the harness")
    arguments = parser.parse_args()
    os.umask(0o077)
    asyncio.run(serve(Hsm(arguments.state), arguments.line, arguments.control))


if __name__ == "__main__":
    main()
