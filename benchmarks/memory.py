"""How much memory a unit of the virtual Pi takes at most, told by the Pi now and then."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# The largest resident size (VmHWM, anonymous and file pages) of each process of the unit, and
# what the control group has counted at most, if this kernel counts (with the page cache). Seldom,
# and by few programs: what looks on must not be part of what is measured.
SAMPLER = """sudo sh -c '
unit=/sys/fs/cgroup/system.slice/{unit}.service
while sleep 5; do
    [ ! -e $unit/memory.peak ] || {{ read -r peak <$unit/memory.peak; echo "%G $peak"; }}
    [ ! -e $unit/cgroup.procs ] ||
        awk "/^Name:/ {{ name = \\$2 }} /^Pid:/ {{ pid = \\$2 }} /^VmHWM:/ {{ most = \\$2 }}
            /^RssAnon:/ {{ print \\"%M\\", name, pid, most, \\$2 }}" \\
            $(sed "s,.*,/proc/&/status," $unit/cgroup.procs)
done' 2>/dev/null &
"""

_PROCESS = re.compile(r"%M (\S+) (\d+) (\d+) (\d+)\s*$")
_GROUP = re.compile(r"%G (\d+)\s*$")
WORKERS = ("crfs", "python")


@dataclass
class PeakMemory:
    """The largest sizes met, in KiB: of the worker, of each of its children by name.

    `worker_anonymous_kib` is the part of the worker that is its own, not pages of files.
    `group_kib` is what the control group counted at most, page cache included; 0 if nothing does.
    """

    worker_kib: int = 0
    worker_anonymous_kib: int = 0
    children_kib: dict[str, int] = field(default_factory=dict)
    group_kib: int = 0

    def hear(self, line: str) -> None:
        """Take note of a line on the console, if it is the sampler's."""
        if match := _PROCESS.search(line):
            name, most, own = match[1], int(match[3]), int(match[4])
            if name.startswith(WORKERS):
                self.worker_kib = max(self.worker_kib, most)
                self.worker_anonymous_kib = max(self.worker_anonymous_kib, own)
            else:
                self.children_kib[name] = max(self.children_kib.get(name, 0), most)
        elif match := _GROUP.search(line):
            self.group_kib = max(self.group_kib, int(match[1]) // 1024)
