"""To whose code an instruction belongs: a module of nullpass, a crate, the allocator or the C library."""

import re

REGISTRY = re.compile(r"/registry/src/[^/]+/(.+?)-\d[^/]*/")
OURS = re.compile(r"(?:^|/)src/((?:[a-z0-9_]+/)*[a-z0-9_]+)\.rs$")
ALLOCATOR = re.compile(
    r"^(_int_(malloc|free|realloc)|malloc|free|calloc|realloc|cfree|unlink_chunk.*|malloc_consolidate|__rust_alloc.*|tcache.*)$"
)
STANDARD = {"core", "alloc", "std"}
PATH = re.compile(r"(?<![\w:])[a-z_][a-z0-9_]*(?:::[a-zA-Z_][a-zA-Z0-9_]*)*")


def of(file, function):
    """Code that was inlined belongs to where it was written; what the standard library adds, to the function it was put into."""
    if ALLOCATOR.match(function):
        return "allocator"
    if found := REGISTRY.search(file):
        return found[1].replace("-", "_")
    if "/library/" in file or file == "???":
        return of_function(function)
    if found := OURS.search(file):
        return "nullpass::" + found[1].removesuffix("/mod").replace("/", "::")
    return "libc" if file.endswith((".c", ".S", ".h")) else of_function(function)


def of_function(function):
    """By the path in its name: `<hyper::A as core::B>::c` is hyper's. An impl of ours for the standard library's type counts as ours."""
    paths = [path for path in PATH.findall(function) if "::" in path]
    for path in paths:
        head, *rest = path.split("::")
        if head == "nullpass":
            return "::".join([head, *[part for part in rest if part.islower()][:2]])
        if head not in STANDARD:
            return head
    return "std" if paths else "other C code"


def crate(owner):
    """The crate alone."""
    return owner.split("::")[0]
