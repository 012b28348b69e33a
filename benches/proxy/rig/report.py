"""The tables, as Markdown, and the same figures as JSON."""

from dataclasses import asdict

from .load import median
from .shapes import SHAPES


def table(head, rows, text=1):
    """The first columns, which are `text`, to the left, all others to the right."""
    lines = [head, ["---"] * text + ["---:"] * (len(head) - text), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def middle(samples, what):
    return median([getattr(sample, what) for sample in samples])


def number(value):
    """With three digits or so."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(samples):
    costs = [sample.cpu for sample in samples]
    if len(costs) == 1:
        return number(costs[0])
    return f"{number(middle(samples, 'cpu'))} ({number(min(costs))}–{number(max(costs))})"


def ratio(ours, theirs):
    return f"{middle(ours, 'cpu') / middle(theirs, 'cpu'):.2f}" if ours and theirs else "–"


def tables(samples, kinds, shapes, logged):
    """Three tables for one setting of the access logs; `samples` is by (shape, peer)."""
    names, log = list(kinds), "on" if logged else "off"

    def there(shape, name):
        return samples.get((shape, name))

    titles = [kinds[name].title for name in names]
    cost = [[SHAPES[s].title, *(spread(there(s, n)) if there(s, n) else "–" for n in names)] for s in shapes]
    parts = [f"### Access logs {log}", "CPU time of the proxy, µs a request: median (least–most)", table([f"logs {log}", *titles], cost)]
    for ours in (name for name in names if kinds[name].binary is not None):
        others = [name for name in names if name != ours]
        if not others:
            continue
        rows = [[SHAPES[s].title, *(ratio(there(s, ours), there(s, n)) for n in others)] for s in shapes]
        parts += [
            f"{kinds[ours].title} ÷ the others, by these medians: under 1, {ours} takes less",
            table([f"logs {log}", *(kinds[n].title for n in others)], rows),
        ]
    rows = []
    for shape in shapes:
        for name in names:
            if found := there(shape, name):
                rows.append(
                    [SHAPES[shape].title, kinds[name].title, *(number(middle(found, what)) for what in ("rate", "p50", "p99", "rss"))]
                )
    parts += ["Beside it, medians", table([f"logs {log}", "proxy", "a second", "p50, ms", "p99, ms", "RSS, MiB"], rows, text=2)]
    parts += [line for line in extra(samples, kinds, shapes) if line]
    return "\n\n".join(parts)


def extra(samples, kinds, shapes):
    """What follows from the medians: throughput for each CPU-second, latencies side by side, and what many tokens cost
    more than one."""
    for shape in shapes:
        if size := SHAPES[shape].size:
            each = [f"{kinds[n].title} {size / middle(samples[shape, n], 'cpu'):,.0f}" for n in kinds if (shape, n) in samples]
            yield f"{SHAPES[shape].title}, MB for each second of CPU time: {', '.join(each)}."
    if "rate" in shapes:
        late = {name: middle(samples["rate", name], "p99") for name in kinds}
        each = [f"{kinds[name].title} {number(value)}" for name, value in late.items()]
        share = f"; nullpass ÷ nginx {late['nullpass'] / late['nginx']:.2f}" if {"nullpass", "nginx"} <= late.keys() else ""
        yield f"{SHAPES['rate'].title}, p99 in ms: {', '.join(each)}{share}."
    if "one" in shapes and "tokens" in shapes:
        both = [n for n in kinds if ("one", n) in samples and ("tokens", n) in samples]
        each = [f"{kinds[n].title} {middle(samples['tokens', n], 'cpu') / middle(samples['one', n], 'cpu'):.2f}" for n in both]
        yield f"All tokens in turn ÷ one token, CPU time: {', '.join(each)}."


def figures(samples, logged):
    """For --json: every round of every shape and peer."""
    return [
        {"shape": shape, "peer": name, "logs": logged, "rounds": [asdict(sample) for sample in found]}
        for (shape, name), found in samples.items()
    ]
