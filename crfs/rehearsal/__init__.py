"""The virtual Raspberry Pi: a card, a stick, a firmware and an HSM6 that exist only as files.

A user rehearses a migration here before touching a real card, and the tests run on it.

Root, a real kernel and dm-crypt for a test of one step, in seconds (`workbench`):

    result = run_in_uml("cryptsetup luksDump /dev/ubda2", disks=[card], timeout=60)
    result.code, result.output

A whole Pi (`image`, `module`, `pi`; boards are "uml", "q35" and "virt"):

    compose_card(card, options=CardOptions(tryboot=True, files={"/home/pi/crfs.deb": deb}))
    compose_stick(stick)
    with HsmProcess(folder) as hsm, VirtualPi(folder, card, stick=stick, hsm=hsm) as pi:
        pi.power_on()                      # the firmware reads the FAT now
        pi.login()
        code, output = pi.run("lsblk")     # or pi.check(...), which raises on failure
        hsm.set(answering="silent")        # ok, silent, slow, wrong; hsm.order("tamper"), "swap"
        pi.run("sudo crfs resume", wait=False)
        pi.console.expect("settling", 300)
        pi.power_cut()                     # or pi.reboot("0 tryboot"), pi.shutdown()
        pi.set_stick(None)
        pi.power_on()
        boot = pi.wait_exit()              # boot.ended, boot.root, boot.trial, boot.argument
        hsm.counter("unlocks"), pi.boots, pi.acknowledged, pi.log

What is on a root, and what must not be in raw images (`manifest`, `rawsearch`, `life.MARKERS`):

    before = card_manifest(card)                     # plain
    after = card_manifest(card, key=hsm.unseal(blob))  # LUKS; the image is not changed
    compare(before, after, LAWFUL) == []
    find_in_image(stick, MARKERS) == {}

The whole story (`rehearse`): `rehearse(deb=..., out=...)` writes out/report.json.
"""
