"""How PostgreSQL carries out the statements of the store when there is much in it. The statements are not repeated here: the
store's own code runs them (`store.rs queries`), and the server writes down the plan of each (auto_explain)."""

import json
import re
import subprocess
import time
import uuid

from postgres import ROLE, Postgres
from rig.tools import Missing

SCHEMA = "big"
# With fewer accounts the planner is told to take an index wherever there is one.
ENOUGH = 100_000
# Tables that grow with the number of people. `locks` is bounded, `changes` is kept for minutes, the others hold a few rows.
GROWING = {"users", "sessions", "api_tokens", "audit", "retired_emails", "totp_steps", "spent"}
# An index that is walked along for so many rows that do not match is no better than the table.
MOST_PASSED_OVER = 20_000


def plans(asked, built):
    """Prints what every statement does; whether all of them use an index where it matters."""
    program = built("store", asked.profile)
    settings = {
        "shared_preload_libraries": "auto_explain",
        "logging_collector": "on",
        "log_destination": "jsonlog",
        "log_connections": "off",
        "shared_buffers": "1GB",
        "maintenance_work_mem": "1GB",
        "max_wal_size": "8GB",
        "checkpoint_timeout": "1h",
        "autovacuum": "off",
    }
    try:
        server = Postgres(settings=settings, durable=False)
    except RuntimeError as error:
        raise Missing(f"missing: {error}") from None
    with server:
        if int(server.ask("SHOW server_version_num")) < 150000:
            raise Missing("missing: PostgreSQL 15 or newer, whose log can be read by a program")
        url = server.url(sslmode="disable")
        fill(server, program, url, asked.users)
        for name, value in {"min_duration": "0", "analyze": "on", "buffers": "on", "timing": "off", "nested_statements": "on", "format": "json"}.items():
            server.ask(f"ALTER ROLE {ROLE} SET auto_explain.log_{name} = {value}")
        if asked.users < ENOUGH:
            # A small table is read from end to end for good reason; this way it is only where no index would do.
            server.ask(f"ALTER ROLE {ROLE} SET enable_seqscan = off")
        subprocess.run([program, "queries", url, SCHEMA], check=True, stdout=subprocess.DEVNULL, timeout=1800)
        server.stop()
        found = read(server)
    return report(found)


def fill(server, program, url, users):
    done = subprocess.run([program, "model", url, SCHEMA], check=True, capture_output=True, text=True, timeout=120)
    ids = json.loads(done.stdout)
    began = time.monotonic()
    psql(server, f'COPY "{SCHEMA}".users (id, email, searched, grams, groups, revision, record) FROM STDIN', people(server, ids, users))
    record = "'\\x01'::bytea || convert_to({}, 'UTF8')"
    text = "(SELECT convert_from(substring(record FROM 2), 'UTF8') FROM {table} WHERE id = '{id}')"
    model = {table: text.format(table=f'"{SCHEMA}".{table}', id=ids[of]) for table, of in (("sessions", "session"), ("api_tokens", "token"), ("audit", "event"))}
    owner = "(lpad(to_hex(1500000000000 + n % {users}), 12, '0') || '70008000' || lpad(to_hex(n % {users}), 12, '0'))::uuid".format(users=users)
    made = "(lpad(to_hex(1600000000000 + n), 12, '0') || '70008' || lpad(to_hex(n), 15, '0'))::uuid"
    millis = "(extract(epoch FROM now()) * 1000)::int8"
    like = f"replace(replace((SELECT text FROM model), '{{id}}', id::text), '{ids['user']}', owner::text)"
    many = lambda count, more="": f"(SELECT n, {made} AS id, {owner} AS owner{more} FROM generate_series(1, {count}) AS n) AS new"  # noqa: E731
    statements = {
        "sessions": f"""WITH model AS MATERIALIZED (SELECT {model["sessions"]} AS text)
            INSERT INTO sessions (id, user_id, expires_at, record)
            SELECT id, owner, {millis} + (n % 30 + 1) * 86400000::int8 - CASE WHEN n % 5000 = 0 THEN 40 * 86400000::int8 ELSE 0 END,
            {record.format(like.format(id=ids["session"]))} FROM {many(5 * users)}""",
        "api_tokens": f"""WITH model AS MATERIALIZED (SELECT {model["api_tokens"]} AS text)
            INSERT INTO api_tokens (id, user_id, digest, expires_at, record)
            SELECT id, owner, sha256(n::text::bytea), CASE WHEN n % 2 = 0 THEN {millis} + 86400000::int8 * (n % 90 + 1) END,
            {record.format(like.format(id=ids["token"]))} FROM {many(users // 2)}""",
        "audit": f"""WITH model AS MATERIALIZED (SELECT {model["audit"]} AS text)
            INSERT INTO audit (at, id, user_id, action, record)
            SELECT {millis} - n * 10000::int8, id, owner, action,
            {record.format("replace(" + like.format(id=ids["event"]) + ", 'USER_LOGIN', action)")}
            FROM {many(3 * users, ", CASE WHEN n % 50000 = 0 THEN 'TOKEN_REUSE' WHEN n % 4 = 0 THEN 'LOGIN_FAILED' WHEN n % 4 = 1 THEN 'SESSION_CREATE' ELSE 'USER_LOGIN' END AS action")}""",
        "totp_steps": f"INSERT INTO totp_steps (user_id, step) SELECT owner, 57000000 FROM {many(users // 3)}",
        "retired_emails": f"INSERT INTO retired_emails (digest, at) SELECT sha256(n::text::bytea), {millis} FROM generate_series(1, {users // 10}) AS n",
        "spent": f"INSERT INTO spent (purpose, digest, until) SELECT 1, sha256(n::text::bytea), {millis} + n FROM generate_series(1, {users // 5}) AS n",
        "locks": f"""INSERT INTO locks (key, owned, failures, last_failure_at, locked_until)
            SELECT 'a'::bytea || sha256(n::text::bytea), false, 3, {millis} - n * 1000, 0 FROM generate_series(1, least({users} / 6, 150000)) AS n""",
        "changes": "INSERT INTO changes (kind, id) SELECT 'e', gen_random_uuid() FROM generate_series(1, 20000)",
    }
    for table, sql in statements.items():
        # Who owns what is known to be there.
        psql(server, f'SET search_path = "{SCHEMA}"; SET session_replication_role = replica; {sql}')
        count = int(server.ask(f'SELECT count(*) FROM "{SCHEMA}".{table}'))
        print(f"- {table}: {count:,} rows", flush=True)
    psql(server, "VACUUM ANALYZE")
    size = server.ask(f"SELECT pg_size_pretty(sum(pg_total_relation_size(c.oid))) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = '{SCHEMA}' AND relkind = 'r'")
    print(f"\n{users:,} accounts, {5 * users:,} sessions, {size} with indexes; filled in {time.monotonic() - began:.0f} s\n", flush=True)


def psql(server, sql, rows=()):
    """As the harness asks, without its time limit, and with rows for a COPY."""
    feeding = subprocess.Popen(server._psql("nullpass", "-c", sql), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd="/", env=server._environment())
    for row in rows:
        feeding.stdin.write(row)
    feeding.stdin.close()
    if feeding.wait(3600):
        raise SystemExit(f"psql ended with {feeding.returncode}: {sql[:200]}")


def people(server, ids, users):
    """The lines of a COPY, with the columns as the store writes them (src/store/postgres/users.rs and search.rs)."""
    model = server.ask(f"""SELECT convert_from(substring(record FROM 2), 'UTF8') FROM "{SCHEMA}".users WHERE id = '{ids["user"]}'""")
    known = {}
    for n in range(users):
        who = uuid.UUID(f"{1500000000000 + n:012x}70008000{n:012x}")
        email, name = f"person.{n}@example.com", f"Person Number {n}"
        groups = "{nullpass-admin,staff}" if n % 100_000 == 7 else f"{{staff,team-{n % 50}}}"
        searched = f"{email}\n{name.lower()}"
        parts = {searched[at : at + length] for length in (1, 2, 3) for at in range(len(searched) - length + 1)}
        grams = ",".join(map(str, sorted({known.get(part) or known.setdefault(part, fnv(part)) for part in parts})))
        record = b"\x01" + model.replace(ids["user"], str(who)).replace("user0@example.com", email).replace("Person Number 0", name).encode()
        yield "\t".join([str(who), email, searched.replace("\n", "\\n"), f"{{{grams}}}", groups, "1", f"\\\\x{record.hex()}"]).encode() + b"\n"


def fnv(part):
    """FNV-1a over the characters as 32-bit numbers."""
    value = 0x811C9DC5
    for byte in part.encode("utf-32-be"):
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def read(server):
    """For each statement its plans, as the server wrote them down."""
    found = {}
    for file in sorted((server.data / "log").glob("*.json")):
        for line in file.open(encoding="utf-8"):
            entry = json.loads(line)
            if entry.get("user") != ROLE or "plan:\n" not in entry.get("message", ""):
                continue
            told = json.loads(entry["message"].split("plan:\n", 1)[1])
            text = " ".join(told["Query Text"].split()).rstrip(";")
            found.setdefault(text, []).append(told["Plan"])
    return found


def nodes(plan):
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def blocks(plan):
    return plan.get("Shared Hit Blocks", 0) + plan.get("Shared Read Blocks", 0)


def complaints(plan):
    for node in nodes(plan):
        if "Seq Scan" in node["Node Type"] and node.get("Relation Name") in GROWING:
            yield f"reads {node['Relation Name']} from end to end"
        passed = max((value for name, value in node.items() if name.startswith("Rows Removed by")), default=0)
        if passed > MOST_PASSED_OVER and node.get("Relation Name") in GROWING:
            yield f"passes over up to {10 ** len(str(passed)):,} rows of {node['Relation Name']}"


def report(found):
    bad = {text: sorted({one for plan in plans for one in complaints(plan)}) for text, plans in found.items()}
    print("| statement | runs | how, at its dearest | blocks, least to most | rows |\n| --- | ---: | --- | ---: | ---: |")
    for text in sorted(found, key=lambda text: -max(map(blocks, found[text]))):
        many = found[text]
        worst = max(many, key=blocks)
        how = [re.sub(r"\s+", " ", f"{n['Node Type']} {n.get('Index Name') or n.get('Relation Name', '')}").strip() for n in nodes(worst)]
        least = min(map(blocks, many))
        short = text if len(text) <= 150 else text[:147] + "…"
        # The pipe is Markdown's.
        print(f"| `{short.replace('|', '¦')}` | {len(many)} | {', '.join(dict.fromkeys(how))} | {least:,} to {blocks(worst):,} | {max(p['Actual Rows'] for p in many):,} |")
    for text, why in bad.items():
        if why:
            print(f"\nNOT GOOD: {text}\n  {'; '.join(why)}")
    count = sum(map(bool, bad.values()))
    print(f"\n{len(found)} statements, {sum(map(len, found.values()))} runs; {count} that read too much")
    return bool(found) and count == 0
