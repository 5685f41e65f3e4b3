"""What a program cannot look up: short answers, told by `crfs explain` and in docs/answers.md.

Text between backticks is something to type or a name; paragraphs that are indented by four blanks
are to be typed line by line. `outdated` says where Zymbit's HSM6 FAQ is not, or not any more, the
whole truth, and why.
"""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass

from crfs import boards

_FAQ = "Zymbit's HSM6 FAQ"
_CLIENT = "Zymbit's Python client (zku 1.0.33)"
_PERIMETER = "docs.zymbit.com, Perimeter Detect: HSM6"
_SECURE_BOOT = "github.com/raspberrypi/usbboot, secure boot"


@dataclass(frozen=True)
class Topic:
    id: str
    title: str
    text: str
    outdated: str = ""
    source: str = _FAQ
    words: str = ""  # to be found by, besides those of the title

    @property
    def paragraphs(self) -> list[str]:
        """What it says, each paragraph in one line, or in the lines that are to be typed."""
        told = [self.text]
        if self.outdated:
            told.append(f"About the FAQ: {inspect.cleandoc(self.outdated)}")
        told.append(f"Source: {self.source}.")
        found = [one for text in told for one in inspect.cleandoc(text).split("\n\n")]
        return [one if one.startswith("    ") else " ".join(one.split()) for one in found]


def _named(loader: str) -> str:
    return ", ".join(board.name for board in boards.BOARDS if board.loader == loader)


TOPICS = (
    Topic(
        "checklist",
        "What to check before anything else",
        """
        `crfs doctor` looks at all of it: the power supply, I2C, updates, and whether Zymbit's
        software is installed and bound. By hand: a supply of 5 V and 3 A for a Pi 4 (no phone
        charger); `ls /dev/i2c-1`, and if it is not there, I2C on, off and on again in
        `raspi-config`; `sudo apt update && sudo apt upgrade` and a reboot; the blue LED once every
        3 seconds.

        Nothing else is worth trying before the LED does that.
        """,
        outdated="""
        The FAQ stops at the upgrade. Reboot after it: the initramfs is built for the kernel that
        runs.
        """,
        words="start troubleshooting help power i2c update",
    ),
    Topic(
        "power-quality",
        "The HSM does not come back after the power was off",
        """
        The module watches the 5 V of the Pi. If they drop, even for a moment, it stops serving,
        so that nobody can attack it through its supply. Displays, modems and disks that the Pi
        feeds are the usual cause, then cables and weak supplies.

        Take a better supply, feed the big consumers on their own, switch off and on. `crfs
        doctor` tells of undervoltage that the Pi itself has seen.
        """,
        words="restart brown-out brownout voltage undervoltage cycle",
    ),
    Topic(
        "i2c-address",
        "Another I2C address for the HSM",
        """
        The HSM6 answers at 0x30. If another device on the bus does too and cannot be moved, move
        the HSM: `sudo crfs hsm set-i2c-address 0x60`. It takes 0x30 to 0x37 and 0x60 to 0x67; the
        module restarts.

        Sharing the bus is no problem otherwise: its traffic is encrypted and disturbs nobody. Its
        interrupt line, pin 7 (GPIO 4), should be its own.
        """,
        source=f"{_FAQ}; {_CLIENT}",
        words="conflict bus change",
    ),
    Topic(
        "i2cdetect",
        "i2cdetect does not show the HSM",
        """
        That is no fault. `i2cdetect` finds devices that speak SMBus on top of I2C; the HSM6 does
        not. Look at the blue LED, or `systemctl status zkifc`, or `crfs doctor`.
        """,
        words="invisible i2c-tools detect smbus",
    ),
    Topic(
        "install-again",
        "Installing Zymbit's software a second time",
        """
        If it failed, run it again, as often as you like. Copy `/var/lib/zymbit` to another place
        before: in production mode the module never works again without it.
        """,
        words="curl script failed repeat reinstall",
    ),
    Topic(
        "stick",
        "Which USB stick",
        """
        A blank one, at best twice the size of the card. It has to hold what is used on the card
        and 5 % more; below twice the card crfs only warns. What is on it is erased, after
        `--erase-usb`. It is read back completely, so a fake size is noticed.

        Leave it in until crfs says that it is done: for a while it holds the only whole copy of
        your system (`crfs explain interrupted`).
        """,
        source=f"{_FAQ}; README",
        words="usb size blank erase",
    ),
    Topic(
        "layout",
        "Does my Pi have the default layout?",
        """
        `sudo crfs encrypt --dry-run` says so, and what to type if not. Defaults: the root on
        partition 2 of `/dev/mmcblk0`, the stick at `/dev/sda`. `lsblk` shows the same.
        """,
        outdated="""
        The FAQ's picture has the boot partition at `/boot`; since Raspberry Pi OS 12 it is at
        `/boot/firmware`. crfs takes either.
        """,
        source=f"{_FAQ}; Raspberry Pi documentation, config.txt",
        words="lsblk partition default parameters mmcblk0p2 sda",
    ),
    Topic(
        "progress",
        "How far is it?",
        """
        `sudo crfs status --watch`, in all three phases, with percent and time left; or
        `journalctl -fu cfg_SD_crfs`. The LED flashes rapidly meanwhile: crfs holds the HSM, and
        `zkifc` is stopped. There are two automatic reboots.
        """,
        outdated="""
        With Zymbit's own script only the second half could be followed.
        """,
        source=f"{_FAQ}; docs/how-it-works.md",
        words="monitor status phase reboot log",
    ),
    Topic(
        "interrupted",
        "It was interrupted",
        """
        It goes on by itself at the next boot. If it has stopped for a reason, `sudo crfs status`
        tells which; `sudo crfs resume` goes on, `sudo crfs rollback` goes back for as long as the
        plain root exists.
        """,
        outdated="""
        The FAQ advises to start afresh. With crfs never do: the stick may hold the only whole
        copy.
        """,
        source=f"{_FAQ}; docs/how-it-works.md",
        words="fresh again power cut resume rollback incomplete fail",
    ),
    Topic(
        "encrypted",
        "Is my root encrypted and protected?",
        """
        `sudo crfs verify` checks it, point by point, and `lsblk` shows `cryptrfs` above `/`.
        """,
        outdated="""
        The FAQ takes the LED and `lsblk` for proof. Neither tells that the HSM opened the root in
        this boot, that the initramfs is in step, or that nothing was left in the clear.
        """,
        source=f"{_FAQ}; docs/troubleshooting.md",
        words="confirm check cryptrfs sure",
    ),
    Topic(
        "curves",
        "Curves and keys",
        """
        The HSM6 has NIST P-256, secp256k1, X25519 and Ed25519; Zymkey and HSM4 have NIST P-256
        only. `crfs hsm keys` lists the slots in use. None of them has to do with the key of the
        disk: that is random bytes, sealed by the HSM.
        """,
        outdated="""
        The FAQ lists NIST P-256 and secp256r1 as two: they are two names of one curve (SEC 2, RFC
        5480).
        """,
        source=f"{_FAQ}; RFC 5480, section 2.1.1.1",
        words="elliptic secp256r1 secp256k1 ed25519 x25519 nist slots",
    ),
    Topic(
        "foreign-key",
        "The public key of another module",
        """
        On the other Pi write `zymkey.client.get_public_key(0)` into a file, as bytes. Bring the
        file to this Pi and type `sudo crfs hsm store-public-key FILE`; it tells the slot.

        A public key is no secret, but it has to be the right one: compare `sha256sum FILE` on
        both sides.
        """,
        outdated="""
        The FAQ's example lets the file lie in `/tmp`, where other users of that Pi could put
        another one in its place.
        """,
        source=f"{_FAQ}; {_CLIENT}",
        words="store_foreign_public_key zymkey hsm4 import slot",
    ),
    Topic(
        "clock",
        "The clock is wrong",
        """
        The Pi sets its clock over the network (NTP), and the HSM's clock follows: `timedatectl`
        shows whether it has happened. Without a network `sudo date --set=12:00` sets it
        by hand.

        At boot `zkbootrtc` takes the time from the HSM, which keeps it on its battery.
        """,
        words="time date ntp rtc reset sync",
    ),
    Topic(
        "devices",
        "Reaching the HSM's clock, accelerometer and keys",
        """
        Through Zymbit's libraries for C, C++ and Python, which talk to `zkifc`; there is
        nothing to set up in the kernel besides I2C. They do not appear as `/dev/rtc` and the
        like.
        """,
        source=f"{_FAQ}; {_CLIENT}",
        words="rtc accelerometer crypto api driver library",
    ),
    Topic(
        "repository-key",
        "The key of Zymbit's repository has expired",
        """
        Fetch it again, look at it, and keep it for this one repository:

            cd /etc/apt/keyrings
            sudo curl -fsSLo zymbit.asc https://zk-sw-repo.s3.amazonaws.com/apt-zymkey-pubkey.gpg
            gpg --show-keys zymbit.asc

        If `file zymbit.asc` calls it no text, name it `zymbit.gpg`. Then write
        `[signed-by=/etc/apt/keyrings/zymbit.asc]` after `deb` in Zymbit's line below
        `/etc/apt/sources.list.d`.
        """,
        outdated="""
        The FAQ pipes it into `apt-key add`. That is deprecated, will go away, and makes the key
        good for every repository (manual page apt-key(8)).
        """,
        source=f"{_FAQ}; apt-key(8), sources.list(5)",
        words="gpg apt expired update repository signature",
    ),
    Topic(
        "card-removal",
        "Does the HSM notice that the card was pulled?",
        """
        No. Its two perimeter circuits notice an opened case, or whatever else you lead their
        wires around. An event is noted, or destroys the keys, as you have set it. A card that was
        pulled is not readable without its HSM anyway.
        """,
        source=f"{_FAQ}; {_PERIMETER}",
        words="sd card removed detect perimeter tamper case",
    ),
    Topic(
        "battery",
        "Do I need a battery?",
        """
        For two things, and only while the Pi has no power: the HSM's clock, and the watching of
        the perimeter. With the Pi powered both work without one. What the module does when the
        battery runs empty is another question: `crfs explain battery-change`.

        `crfs hsm info` shows its voltage.
        """,
        words="external coin cell rtc perimeter",
    ),
    Topic(
        "battery-change",
        "Changing the battery, and when it dies",
        """
        Give the Pi its power first, then change the battery: nothing is missed meanwhile. Before
        you do it for the first time in production mode, look what the module was told to do.

        The HSM6 watches its battery. What it does below the threshold (2.3 V by default) is your
        choice: go on, hold in reset until the battery is changed, or destroy its keys
        (`set_battery_voltage_action`, `set_battery_voltage_threshold`). Zymkey and HSM4 have no
        choice: with tamper detection on they destroy themselves.
        """,
        source=f"{_FAQ}; {_CLIENT}",
        words="dead dies empty replace self-destruct voltage",
    ),
    Topic(
        "kernel-shell",
        "Can the kernel be told to run no shell?",
        """
        Partly. `panic=10` in `cmdline.txt` makes the initramfs reboot where it would offer a
        shell (manual page initramfs-tools(7)); the boots of a migration do that. But whoever can
        write to the boot partition can take it out, add `init=/bin/sh`, or bring a kernel of
        their own.

        So it helps against somebody with a keyboard, not against somebody with the card in a
        reader. For that see `crfs explain boot-partition`.
        """,
        outdated="""
        The FAQ has no remedy against an exchanged kernel. Since then the firmware of Pi 4, Pi 5
        and their modules can check a signature.
        """,
        source=f"{_FAQ}; initramfs-tools(7); {_SECURE_BOOT}",
        words="init busybox initramfs",
    ),
    Topic(
        "cmdline",
        "Can the kernel be told to ignore cmdline.txt?",
        """
        No: the firmware reads the file and hands it to the kernel. On a Pi 4, Pi 5, CM4 or CM5 it
        can be protected: with secure boot on, the firmware takes config.txt, cmdline.txt, kernel
        and initramfs only out of one `boot.img` that you have signed. Older boards cannot do
        that.
        """,
        outdated="""
        The FAQ's reason, a bootloader in the GPU for which there is no compiler, is that of the
        Pi 3 and before. The answer for newer boards is a signature, not an own bootloader. crfs
        has not been tried with secure boot: it would have to write and sign `boot.img`.
        """,
        source=f"{_FAQ}; {_SECURE_BOOT}",
        words="cmdline.txt command line init options bootloader gpu",
    ),
    Topic(
        "boot-partition",
        "Can the boot partition be encrypted?",
        """
        No. The firmware reads it before anything else runs, and it can neither decrypt nor talk
        to the HSM. What lies there is readable by anyone who has the card: boot files, kernel,
        initramfs, and the disk's key, sealed. Keep passwords out of it.

        What protects it is a signature (secure boot of Pi 4, Pi 5, CM4, CM5), or a perimeter that
        nobody opens unnoticed. docs/threat-model.md says against whom the encrypted root helps.
        """,
        outdated="""
        The FAQ announces verified boot for a future product. Zymbit has it now as supervised boot
        of its Secure Compute Module, not for the HSM6; Raspberry Pi has secure boot.
        """,
        source=f"{_FAQ}; {_SECURE_BOOT}; docs.zymbit.com, SCM",
        words="/boot firmware secure signed verified",
    ),
    Topic(
        "lock-tab",
        "The lock tab, and how a module is locked today",
        """
        Locking is what takes a module from development to production mode, for good. Depending on
        the module it is a tab that is cut, or a call of `lock_binding()` and a reboot. `crfs hsm
        info` tells which mode it is in, and so does the LED: 3 blinks instead of one.

        Before you do either, read `crfs explain production-mode`.
        """,
        outdated="""
        The FAQ knows the tab only. Zymbit's present documentation of the HSM6 locks by software;
        do not look for a tab to cut where there is none.
        """,
        source=f"{_FAQ}; {_CLIENT}",
        words="cut tab lock_binding lock",
    ),
    Topic(
        "production-mode",
        "Production mode: what changes, and in which order to go there",
        """
        A locked module works with this Pi and this card only, for ever. It cannot be moved to
        another Pi, the card cannot be exchanged, and `/var/lib/zymbit` must never be lost. In
        development mode Pi and card may still be exchanged; the module may not.

        The order that cannot hurt: perimeter actions on notify or none; clear old events;
        encrypt; boot some times, `sudo crfs verify`; keep the recovery key and a backup; lock;
        reboot; 3 blinks; close the perimeter; clear until no event is left; arm self-destruction
        last, if at all.
        """,
        outdated="""
        Zymbit's page on perimeter detection says that the actions are fixed by locking, its guide
        arms after it. Find out on a module that you can lose.
        """,
        source=f"{_FAQ}; {_PERIMETER}; Zymbit's production guide",
        words="permanent binding move another pi card swap development locked",
    ),
    Topic(
        "self-destruct",
        "Self-destruction: when it works, and whether it can be turned off",
        """
        Only in production mode, and only if you have armed it. In development mode a perimeter
        event is noted at most, so everything can be tried without harm. Once armed in production
        mode it cannot be turned off.
        """,
        source=f"{_FAQ}; {_PERIMETER}",
        words="destroy keys perimeter lock tab turn off disable armed",
    ),
    Topic(
        "powered-off",
        "Does self-destruction work while the Pi is off?",
        """
        Yes, as long as the HSM's battery lasts: it watches the perimeter on its own. Without a
        battery an opened case is not noticed while the power is off.
        """,
        words="battery off power self-destruct without",
    ),
    Topic(
        "after-self-destruct",
        "After a self-destruction",
        """
        The module is waste: its key slots are destroyed, and new keys cannot be made. Pi and card
        can be used again.

        If the root was encrypted by crfs and you have the recovery key, the data are not lost:
        type it at the console, or open the card on a PC (docs/troubleshooting.md). Without it
        they are.
        """,
        outdated="""
        For the FAQ the data are lost in any case: Zymbit's script makes no recovery key.
        """,
        source=f"{_FAQ}; docs/how-it-works.md",
        words="reuse hardware new keys data lost recovery tampered",
    ),
    Topic(
        "boards",
        "Which boards",
        f"""
        crfs encrypts on {_named(boards.PI)}. It recognises {_named(boards.EXTLINUX)}, shows in a
        dry run what it would write there, and refuses to encrypt: {boards.EXTLINUX_NEEDS}
        """,
        outdated="""
        The FAQ's list ends with Pi 4 and CM4. Zymbit's software knows the pins of the Pi 5 as
        well.
        """,
        words="sbc compatible raspberry pi zero compute module cm3 cm4 jetson nano xavier",
    ),
    Topic(
        "other-boards",
        "Arduino, BeagleBone",
        """
        Zymbit makes nothing for Arduino, whose boards are too small for it, and does not support
        BeagleBone. crfs needs the boot files of a Raspberry Pi, and refuses elsewhere without a
        change.
        """,
        words="beagleboard shield unsupported",
    ),
    Topic(
        "systems",
        "Which operating systems",
        """
        crfs needs Debian 12 or a Raspberry Pi OS that is based on it, with initramfs-tools.
        Kernel and programs have to be of one kind: a 64-bit kernel below 32-bit programs does not
        work with Zymbit's libraries (take a 64-bit image; up to the Pi 4 also `arm_64bit=0` in
        `config.txt`).

        What Zymbit's own software supports changes; its FAQ keeps that list as a picture.
        """,
        source=f"{_FAQ}; README",
        words="os raspbian raspberry pi os debian ubuntu bookworm bullseye 64-bit 32-bit",
    ),
    Topic(
        "power-consumption",
        "How much power the HSM takes",
        """
        On the GPIO header (3.3 V): about 1 mA at rest, below 25 mA at work, below 35 mA with the
        LED on. As a USB device (5 V): about 1.5 mA, below 40 mA, below 60 mA.
        """,
        words="current ma idle consume",
    ),
    Topic(
        "news",
        "New products, and help from people",
        """
        New products are announced by mail; the form is at the bottom of www.zymbit.com. Questions
        are answered at community.zymbit.com. Bring `crfs doctor --json` along.
        """,
        words="future pre-order newsletter community forum support contact",
    ),
)


def find(text: str) -> list[Topic]:
    """The topic of this name, or those that have all the words, or those of a similar name."""
    name = "-".join(text.lower().replace("_", "-").split())
    exact = [topic for topic in TOPICS if topic.id == name]
    if exact:
        return exact
    words = text.lower().split()
    titled = [topic for topic in TOPICS if _has(f"{topic.id} {topic.title}", words)]
    known = [topic for topic in TOPICS if _has(f"{topic.id} {topic.title} {topic.words}", words)]
    near = difflib.get_close_matches(name, [topic.id for topic in TOPICS], n=3)
    return titled or known or [topic for topic in TOPICS if topic.id in near]


def _has(text: str, words: list[str]) -> bool:
    return bool(words) and all(word in text.lower() for word in words)
