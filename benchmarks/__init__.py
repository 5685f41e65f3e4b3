"""How fast crfs is, and its peers on the same slow devices: `python -m benchmarks`.

Not installed with crfs. `devices` says how fast the card and the stick are, `nbd` and `slowdisk`
make them so; `cards` fills a card, `pi_flow` and `peer_flow` encrypt it, `figures` reckons,
`page` shows.
"""
