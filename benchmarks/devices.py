"""How fast the card and the stick of the benchmark are."""

from __future__ import annotations

from dataclasses import dataclass

MB = 10**6


@dataclass(frozen=True)
class Speed:
    """What a device does at most: bytes a second, and operations a second."""

    read_bps: float
    write_bps: float
    read_iops: float
    write_iops: float

    def times(self, factor: float) -> Speed:
        """The same device, `factor` times as fast."""
        return Speed(
            self.read_bps * factor,
            self.write_bps * factor,
            self.read_iops * factor,
            self.write_iops * factor,
        )


@dataclass(frozen=True)
class Profile:
    """A card and a stick.

    The card is of application performance class A1: the SD Association's Physical Layer
    Specification 5.1 asks of that class 1500 random reads and 500 random writes a second (of 4
    KiB each) and 10 MB/s of sustained sequential writing. Reading is bounded by the bus. The
    Raspberry Pi documentation ("SD cards") names SDR104 for the Pi 5 and DDR50 for the Pi 4;
    UHS-I carries 104 and 50 MB/s in these modes, of which about 90 and 45 arrive.

    For sticks there is no class. What is here is an assumption, of a plain USB 3 stick.
    """

    name: str
    card: Speed
    stick: Speed

    def times(self, factor: float) -> Profile:
        """Both devices `factor` times as fast."""
        return Profile(self.name, self.card.times(factor), self.stick.times(factor))


_STICK = Speed(100 * MB, 20 * MB, 2000, 1000)
PROFILES = {
    "sdr104": Profile("sdr104", Speed(90 * MB, 10 * MB, 1500, 500), _STICK),
    "ddr50": Profile("ddr50", Speed(45 * MB, 10 * MB, 1500, 500), _STICK),
}
