"""More made-up names than anybody has accounts, each from an address of its own: what is remembered of them has an end."""

import pathlib
import statistics
import tempfile

from flood import AT_ONCE, BELIEVING, MEMORY, OWNER, signed_in
from sidecar import Sidecar, most_rss_kib
from traffic import Child, strangers



def names(asked):
    with tempfile.TemporaryDirectory(prefix="np-names-") as folder:
        folder = pathlib.Path(folder)
        with Sidecar(folder, sections=BELIEVING, access=False) as sidecar:
            sidecar.ready().token(OWNER)
            before = most_rss_kib(sidecar.pid) / 1024
            with Child(strangers, sidecar.port, None, asked.names, AT_ONCE) as crowd:
                crowd.told(30)
                statuses, _, took = crowd.told(700)
            most = most_rss_kib(sidecar.pid) / 1024
            owner = [(status, ms) for status, _, ms in (signed_in(sidecar.port, {}, {}) for _ in range(5))]
            disk = sum(file.stat().st_size for file in (folder / "data").rglob("*") if file.is_file()) / 1048576
    right = sum(status == 200 for status, _ in owner)
    print("| made-up names | took, s | memory before, MiB | most memory, MiB | on disk, MiB | a real person signs in | median, ms |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    print(f"| {asked.names:,} | {took:.0f} | {before:.1f} | {most:.1f} | {disk:.1f} | {right} of {len(owner)} | {statistics.median(ms for _, ms in owner):.1f} |")
    print(f"\ntheir answers: {', '.join(f'{count} x {status}' for status, count in sorted(statuses.items()))}; goal: under {MEMORY:g} MiB, and the real person in")
    missed = [] if right == len(owner) else [f"names: the real person signed in {right} of {len(owner)} times"]
    missed += [] if most < MEMORY else [f"names: {most:.0f} MiB, goal under {MEMORY:g}"]
    return {"names": asked.names, "seconds": took, "rss_mib": [before, most], "disk_mib": disk, "owner": owner, "statuses": statuses}, missed
