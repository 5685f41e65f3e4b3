"""The virtual Raspberry Pi: a card, a stick, a firmware and an HSM6 that exist only as files.

A user rehearses a migration here before touching a real card, and the tests run on it.

    from crfs.rehearsal.workbench import run_in_uml
    result = run_in_uml("cryptsetup --version", disks=[Path("card.img")])   # as root, real dm-crypt
"""
