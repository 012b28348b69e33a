"""The files that docs/applications.md shows, so that what the tests run is what people read."""

from __future__ import annotations

import re
import tomllib

from harness import ROOT

PAGE = ROOT / "docs" / "applications.md"


def file(name: str, **changes: str) -> str:
    """The block under "`name`:", with parts of it replaced; `changes` maps what stands there to what is put there."""
    found = re.findall(rf"^`{re.escape(name)}`:\n\n```\w+\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(found) == 1, f"{PAGE.name} shows {name} {len(found)} times"
    return _changed(found[0], changes)


def config(name: str, **changes: str) -> dict:
    """The same for a configuration of nullpass, parsed."""
    return tomllib.loads(file(name, **changes))


def _changed(text: str, changes: dict[str, str]) -> str:
    for there, here in changes.items():
        assert text.count(there) == 1, f"{there!r} stands {text.count(there)} times in:\n{text}"
        text = text.replace(there, here)
    return text
