"""The bus that the HSM is on, and its interrupt line, GPIO 4 (pin 7).

Sources: the vendor's FAQ; Raspberry Pi firmware, overlays/README (parameters and their default
pins); Linux 6.6, where the numbers of GPIOs moved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from crfs import zymbit
from crfs.checks.base import FAQ, Check, Finding, cannot_tell, failure, ok, warning
from crfs.checks.machine import Machine

_AGAIN = (
    "'sudo raspi-config', Interface Options, I2C: enable, disable, enable, then reboot; a single "
    "enable may not be enough"
)
_DEVICE = "/dev/i2c-1"
_WAKE_GPIO = 4
_DEFAULT_ADDRESS = 0x30
# Overlays that take GPIO 4 unless they are told another pin, and the word that tells it.
_TAKERS = {
    "w1-gpio": "gpiopin", "w1-gpio-pi5": "gpiopin", "w1-gpio-pullup": "gpiopin",
    "dht11": "gpiopin", "uart3": "", "i2c3": "pins_2_3", "spi4-1cs": "cs0_pin",
    "spi4-2cs": "cs0_pin",
}  # fmt: skip
_PIN_WORDS = ("gpiopin", "gpio_pin", "gpio", "pin", "extpullup", "int_pin", "interrupt", "cs0_pin")
# Sections of config.txt that are for some boards only.
_MODELS = {
    "pi0": "Raspberry Pi Zero", "pi0w": "Raspberry Pi Zero W", "pi02": "Raspberry Pi Zero 2",
    "pi1": "Raspberry Pi Model|Raspberry Pi Compute Module Rev", "pi2": "Raspberry Pi 2",
    "pi3": "Raspberry Pi (3|Compute Module 3)", "pi3+": "Raspberry Pi 3 Model . Plus",
    "pi4": "Raspberry Pi (4|Compute Module 4)", "pi400": "Raspberry Pi 400",
    "cm4": "Raspberry Pi Compute Module 4", "cm4s": "Raspberry Pi Compute Module 4S",
    "pi5": "Raspberry Pi (5|Compute Module 5)", "pi500": "Raspberry Pi 500",
    "cm5": "Raspberry Pi Compute Module 5",
}  # fmt: skip
# The base of the header's GPIOs: by the label of its controller.
_CONTROLLERS = ("pinctrl-bcm2835", "pinctrl-bcm2711", "pinctrl-rp1")
_TIMED_OUT = re.compile(r"i2c.*(?:transfer timed out|controller timed out)", re.IGNORECASE)
_NOTHING_SEEN = "that i2cdetect shows no HSM6 is no fault"


def _lines(machine: Machine) -> Iterator[tuple[str, str]]:
    """What config.txt says, name and value, in its order; other models' sections left out."""
    applies = True
    for line in machine.config.decode(errors="replace").splitlines():
        text = line.split("#", 1)[0].strip()
        section = re.fullmatch(r"\[(.*)\]", text)
        if section:
            applies = _applies(section[1].strip().lower(), machine.model)
        elif applies and "=" in text:
            name, _, value = text.partition("=")
            yield name.strip(), value.strip()


def _applies(section: str, model: str) -> bool:
    """Whether a section is for this board; those that ask for something else count as if."""
    if section in _MODELS and model:
        return re.match(_MODELS[section], model) is not None
    return section != "none"


def _overlays(machine: Machine) -> list[tuple[str, list[str]]]:
    """The overlays with their words; a dtparam after an overlay is the overlay's."""
    found: list[tuple[str, list[str]]] = []
    for name, value in _lines(machine):
        if name == "dtoverlay":
            overlay, *words = (word.strip() for word in value.split(","))
            found.append((overlay, words))
        elif name == "dtparam" and found:
            found[-1][1].extend(word.strip() for word in value.split(","))
    return found


def _enabled(machine: Machine) -> Finding:
    value = None
    for kind, words in _lines(machine):
        for word in words.split(",") if kind == "dtparam" else ():
            name, _, told = word.strip().partition("=")
            if name in ("i2c_arm", "i2c", "i2c1"):
                value = told.strip() or "on"
    if value in ("on", "yes", "true", "1"):
        return ok("config.txt switches I2C on")
    if machine.path(_DEVICE).exists():
        return ok(f"config.txt does not switch I2C on, but {_DEVICE} is there")
    what = "config.txt does not switch I2C on"
    return failure(f"{what} (i2c_arm={value})" if value else what, _AGAIN)


def _device(machine: Machine) -> Finding:
    if machine.path(_DEVICE).exists():
        return ok(f"{_DEVICE} is there; {_NOTHING_SEEN}")
    return failure(f"{_DEVICE} is not there: I2C is off", _AGAIN)


def _gpio_4(machine: Machine) -> Finding:
    for name, words in _overlays(machine):
        told = dict(word.partition("=")[::2] for word in words)
        pins = [told[word] for word in _PIN_WORDS if word in told]
        by_default = name in _TAKERS and _TAKERS[name] not in told
        if str(_WAKE_GPIO) in pins or by_default:
            return failure(
                f"'dtoverlay={','.join([name, *words])}' in config.txt takes GPIO 4 (pin 7), the "
                "HSM's interrupt line",
                "remove that line (1-Wire: raspi-config, Interface Options), or give it another "
                "pin, for example 'dtoverlay=w1-gpio,gpiopin=17'; then reboot",
            )
    return ok("nothing in config.txt takes GPIO 4 (pin 7), the HSM's interrupt line")


def _wake_pin(machine: Machine) -> Finding:
    expected = _gpio_number(machine)
    text = machine.read("/var/lib/zymbit/zkenv.conf")
    if text is None:
        return cannot_tell("/var/lib/zymbit/zkenv.conf is not there")
    found = re.findall(r"(?m)^[ \t]*ZK_GPIO_WAKE_PIN[ \t]*=[ \t]*\"?(\d+)", text)
    if not found:
        return cannot_tell("zkenv.conf names no wake pin; Zymbit's software chooses it")
    if expected is None:
        return cannot_tell(f"the wake pin is {found[-1]}; how this kernel counts is not known")
    if int(found[-1]) != expected:
        return failure(
            f"the wake pin is {found[-1]} in zkenv.conf, but this kernel calls GPIO 4 {expected}: "
            "the LED then flashes 5 times a second for ever",
            f"write ZK_GPIO_WAKE_PIN={expected} in /var/lib/zymbit/zkenv.conf, then 'sudo "
            "systemctl restart zkifc'",
        )
    return ok(f"the wake pin is {expected}, as this kernel calls GPIO 4")


def _gpio_number(machine: Machine) -> int | None:
    """What the kernel calls GPIO 4 of the header; None where that cannot be told."""
    for label in sorted(machine.path("/sys/class/gpio").glob("gpiochip*/label")):
        if machine.read(str(label.relative_to(machine.root))) in _CONTROLLERS:
            base = machine.number(str(label.with_name("base").relative_to(machine.root)))
            return None if base is None else base + _WAKE_GPIO
    release = re.match(r"(\d+)\.(\d+)", machine.kernel)
    if release and (int(release[1]), int(release[2])) < (6, 6):
        return _WAKE_GPIO  # before 6.6 they were counted from 0
    return None


def _timeouts(machine: Machine) -> Finding:
    if not machine.kernel_log:
        return cannot_tell("the kernel's log cannot be read", needs_root=True)
    times = len(_TIMED_OUT.findall(machine.kernel_log))
    if times:
        return warning(
            f"the kernel saw {times} time-outs on the I2C bus",
            "check the module's seat, other devices on the bus and the power supply; the "
            "governor 'performance' helps where 'ondemand' is set",
        )
    return ok("the kernel saw no time-out on the I2C bus")


def _conflict(machine: Machine) -> Finding:
    found = []
    for device in sorted(machine.path("/sys/bus/i2c/devices").glob("1-*")):
        address = int(device.name.partition("-")[2], 16)
        if address in zymbit.ADDRESSES:
            name = machine.read(str((device / "name").relative_to(machine.root))) or "a device"
            found.append((address, name))
    for address, name in found:
        if address == _DEFAULT_ADDRESS:
            return warning(
                f"the kernel's driver for {name} holds address 0x30, where an HSM6 answers by "
                "default",
                "give one of the two another address: 'sudo crfs hsm set-i2c-address 0x31' moves "
                "the HSM, with the other device taken off meanwhile",
            )
    others = "".join(f"; {name} has 0x{address:02x}" for address, name in found)
    return ok(f"no driver of the kernel holds the HSM's default address 0x30{others}")


CHECKS = (
    Check("i2c-enabled", "dtparam=i2c_arm in config.txt", FAQ + ", checklist", _enabled),
    Check("i2c-device", _DEVICE, FAQ + ", checklist; 'invisible to i2c-tools'", _device),
    Check("gpio-4", "dtoverlay= in config.txt", FAQ + ", rapid blinking", _gpio_4),
    Check(
        "wake-pin", "ZK_GPIO_WAKE_PIN in zkenv.conf, /sys/class/gpio",
        "Zymbit's installer; Linux 6.6, numbers of GPIOs", _wake_pin,
    ),
    Check("i2c-timeouts", "the kernel's log", "Linux, i2c-bcm2835 and i2c-designware", _timeouts),
    Check("i2c-conflict", "/sys/bus/i2c/devices", FAQ + ", rapid blinking", _conflict),
)  # fmt: skip
