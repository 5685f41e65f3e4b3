"""`crfs encrypt`: preflight, plan, one question; then the service works and this follows it."""

from __future__ import annotations

import argparse
import dataclasses
import signal
from pathlib import Path

from crfs import (
    bindings,
    boards,
    consent,
    fatfile,
    keys,
    live,
    luks,
    model,
    preflight,
    probe,
    progress,
    recovery,
    worker,
)
from crfs.bindings import Binding
from crfs.bootfiles import BootFiles
from crfs.checks import Machine
from crfs.commands import extlinux_plan, follow
from crfs.commands.common import confirm, read_journal, require_root
from crfs.errors import Declined
from crfs.journal import Journal
from crfs.preflight import Decision, Wanted
from crfs.steps import ALL, STAGING, stage

_ENDING = (signal.SIGHUP, signal.SIGTERM)


def run(args: argparse.Namespace) -> int:
    require_root("encrypt")
    if live.is_running():
        raise follow.busy()
    if conf := probe.extlinux_conf():
        if args.dry_run:
            extlinux_plan.show(conf)
        raise extlinux_plan.refusal(conf)
    read_journal()  # damaged, it stops here
    wanted = Wanted(
        disk=args.disk,
        root_number=args.root_part,
        stick=args.usb,
        erase_stick=args.erase_usb,
        recovery_key=not args.no_recovery_key,
        binding=args.key,
        keep_stage=args.keep_stage,
        keep_shell=args.keep_shell,
    )
    if args.dry_run:
        _show(_decide(wanted))
        return 0
    before = {one: signal.signal(one, _unwind) for one in _ENDING}
    # Two people at their questions at once would undo what the other has begun.
    with worker.locked():
        _begin(_decide(wanted), ask=not args.yes)
    # Nothing is left to unwind: who only follows ends at once, and no reboot waits for that.
    for one, handler in before.items():
        signal.signal(one, handler)
    follow.start()
    return follow.follow()


def _unwind(number: int, frame: object) -> None:
    """A terminal that is closed at the questions: what stands still for them has to run again."""
    for one in _ENDING:  # once: the next one would interrupt that
        signal.signal(one, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _decide(wanted: Wanted) -> Decision:
    decision = preflight.make_plan(Machine(), wanted)
    # Only now: where cryptsetup is missing, the plan's refusal names the package.
    cipher = dataclasses.replace(luks.choose_cipher(), sector=decision.plan.cipher.sector)
    return dataclasses.replace(decision, plan=dataclasses.replace(decision.plan, cipher=cipher))


def _show(decision: Decision) -> None:
    binding = bindings.named(decision.plan.binding)
    print(describe(decision))
    print(
        f"{binding.TITLE}: held by zkifc, not asked in a dry run"
        if keys.DAEMON in decision.plan.services
        else _ask(binding)
    )
    print("This was a dry run: nothing was changed.")


def _begin(decision: Decision, *, ask: bool) -> None:
    """Ask, make the key and write the journal; whatever keeps that from being done undoes it."""
    plan = decision.plan
    binding = bindings.named(plan.binding)
    boot, journal = BootFiles(Path(plan.boot.mount), plan), Journal(Path(plan.boot.mount))
    try:
        binding.take()
        print(describe(decision))
        print(_ask(binding))
        if ask:
            confirm(f"Erase {decision.stick.describe()} and encrypt {decision.card.describe()}?")
        boot.make_room()
        record = model.Record(plan=plan, state=STAGING, boot_id=probe.boot_id())
        if plan.recovery_key:
            digest = _make_key(binding, boot, ask=ask)
            record = dataclasses.replace(record, finished=(stage.STAGING[0].id,), key_digest=digest)
        consent.give(plan)
        journal.write(record)
    except BaseException:
        try:
            try:
                # First what the next boot would go on with.
                journal.remove()
            finally:
                consent.withdraw()
            boot.remove_own()
            journal.remove_empty_folder()
            fatfile.remove_room(boot.folder)
        finally:
            binding.give_back(plan.services)
        raise


def _make_key(binding: Binding, boot: BootFiles, *, ask: bool) -> str:
    """Do the step `seal-key` here, where somebody sees the recovery key; return the key's digest.

    Nothing is written before the key has been read. Raises Declined, HsmError.
    """
    keys.protect_memory()
    key = binding.make_key()
    sealed = binding.seal(key)
    shown = recovery.derive(key, boot.plan.run_id)
    print("\n" + recovery.sheet(shown), flush=True)
    if ask:
        _confirm(shown)
    stage.store_key(boot, sealed)
    return bindings.digest(key)


def _confirm(shown: str) -> None:
    """Have the last group typed, to see that the key was kept. Raises Declined."""
    for _ in range(3):
        try:
            typed = input("\nType its last group of letters to begin: ")
        except EOFError:
            break
        if typed.strip().lower() == shown.rpartition("-")[2]:
            return
        print("That is not its last group.")
    raise Declined(
        "The recovery key was not confirmed.",
        advice="'sudo crfs encrypt' makes a new one; '--no-recovery-key' does without",
    )


def _ask(binding: Binding) -> str:
    binding.ask()
    return f"{binding.TITLE}: answers"


def describe(decision: Decision) -> str:
    """The plan, for a person to agree to."""
    plan = decision.plan
    root = f"{plan.card.path} partition {plan.card.root_number}"
    title = bindings.named(plan.binding).TITLE
    lines = [
        "Now:",
        _indent(probe.lsblk_tree()),
        "",
        f"Board: {boards.name(Machine().model)}",
        f"Card:  {decision.card.describe()}",
        f"Stick: {decision.stick.describe()}",
        "",
        "What will happen (two automatic reboots):",
        *(f"  {number:2}. {step.title}" for number, step in enumerate(ALL, 1)),
        *(["  But the stick keeps its keys (--keep-stage)."] if plan.keep_stage else []),
        "",
        "What will be erased:",
        f"  the stick, {decision.stick.describe()}"
        + ("".join(f"\n    {one}" for one in decision.found_on_stick) or " (blank)"),
        f"  the plain root on {root}, after it was proven on the stick and in a boot",
        "",
        "Afterwards:",
        _indent(_after(decision)),
        "",
        f"How much: {probe.human(plan.used)} are copied out and back; "
        f"encryption: {plan.cipher.name}, {plan.cipher.key_bits} bits.",
        f"How long: about {live.clock(progress.estimate(plan))}. Services stop for the second "
        "half.",
        "Recovery key: "
        + (
            f"shown when you agree, stored nowhere; it opens cryptrfs without the {title}."
            if plan.recovery_key
            else f"none; without the {title} the data is gone."
        ),
        "A power cut at any time loses nothing: the work goes on at the next boot.",
        *_protection(plan),
        *(f"Warning: {one}" for one in decision.warnings),
    ]
    return "\n".join(lines)


def _protection(plan: model.Plan) -> list[str]:
    """What the user gets, and does not get; docs/threat-model.md says it at length."""
    title = bindings.named(plan.binding).TITLE
    other = " or the recovery key" if plan.recovery_key else ""
    return [
        f"Protected: nobody reads card, stick or a copy of them without this {title}{other}.",
        f"Not protected: a whole Pi with its {title} in other hands; and from root while it runs.",
    ]


def _after(decision: Decision) -> str:
    disk, plan = decision.card, decision.plan
    lines = [disk.path.removeprefix("/dev/")]
    for part in disk.children:
        name = part.path.removeprefix("/dev/")
        if part.partuuid == plan.card.root_partuuid:
            lines += [f"|-{name}  crypto_LUKS", f"  `-{model.ROOT_MAPPING}  /"]
        else:
            lines.append(f"|-{name}  {' '.join(part.mounts)}".rstrip())
    return "\n".join(lines)


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())
