"""Callgrind: steering it in a running process, and reading what it dumped.

The format is that of https://valgrind.org/docs/manual/cl-format.html, as far as callgrind writes it without
`--dump-instr`: position lines set a file or a function, a line `LINE COST` is self cost, and the one behind `calls=`
is what the calls took inside.
"""

import collections
import pathlib
import re
import subprocess

POSITION = re.compile(r"^(fl|fi|fe|fn|cfn|cfi|cfl|ob|cob)=(?:\((\d+)\))? ?(.*)$")
# Which table of abbreviations a position's number belongs to.
TABLE = {"fl": "file", "fi": "file", "fe": "file", "cfi": "file", "cfl": "file", "fn": "fn", "cfn": "fn", "ob": "ob", "cob": "ob"}


def command(out):
    """What to put before a program so that it runs under callgrind, which counts nothing yet."""
    return [
        "valgrind",
        "--tool=callgrind",
        "--instr-atstart=no",
        "--compress-strings=yes",
        "--dump-line=yes",
        f"--callgrind-out-file={out}",
    ]


class Control:
    """Steers callgrind in the process `pid`, whose dumps are called `out`, `out.1`, `out.2` and so on."""

    def __init__(self, pid, out):
        self.pid, self.out, self.dumps = pid, pathlib.Path(out), 0

    def _tell(self, *what):
        done = subprocess.run(["callgrind_control", *what, str(self.pid)], capture_output=True, text=True, timeout=60)
        if done.returncode or "OK" not in done.stdout:
            raise SystemExit(f"callgrind_control {' '.join(what)}: {done.stdout}{done.stderr}")

    def start(self):
        """Counts from now on."""
        self._tell("-i", "on")

    def zero(self):
        """Forgets what was counted."""
        self._tell("-z")

    def dump(self):
        """What was counted since `zero` or the last dump."""
        self._tell("-d")
        self.dumps += 1
        return Profile.read(pathlib.Path(f"{self.out}.{self.dumps}"))


class Profile:
    """Instructions by function, with what it calls (`inclusive`) and without (`self`), and by the source file and the
    function that an instruction stands in (`places`; they differ where something was inlined); and calls by function.
    A recursive function's inclusive figure counts what is inside more than once, as callgrind_annotate's does."""

    def __init__(self):
        self.self, self.inclusive = collections.Counter(), collections.Counter()
        self.calls, self.places = collections.Counter(), collections.Counter()

    @property
    def total(self):
        return sum(self.self.values())

    def minus(self, other, over):
        """The difference between two, divided by `over`."""
        result = Profile()
        for name in ("self", "inclusive", "calls", "places"):
            mine, theirs, into = getattr(self, name), getattr(other, name), getattr(result, name)
            for key in mine.keys() | theirs.keys():
                into[key] = (mine[key] - theirs[key]) / over
        return result

    @classmethod
    def read(cls, path):
        profile, names = cls(), {"file": {}, "fn": {}, "ob": {}}
        function = callee = file = "???"
        is_call = False
        for line in open(path, encoding="utf-8", errors="replace"):
            line = line.rstrip("\n")
            if found := POSITION.match(line):
                kind, number, name = found.groups()
                table = names[TABLE[kind]]
                if number is not None:
                    if name:
                        table[number] = name
                    name = table.get(number, "???")
                if kind == "fn":
                    function = name
                elif kind == "cfn":
                    callee = name
                elif kind in ("fl", "fi", "fe"):
                    file = name
            elif line.startswith("calls="):
                profile.calls[callee] += int(line[6:].split()[0])
                is_call = True
            elif line and (line[0].isdigit() or line[0] in "+-*"):
                fields = line.split()
                cost = int(fields[1]) if len(fields) > 1 else 0
                profile.inclusive[function] += cost
                if not is_call:
                    profile.self[function] += cost
                    profile.places[file, function] += cost
                is_call = False
        return profile
