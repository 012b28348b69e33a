"""People who write all the time, what was acknowledged to each of them, and whether it is all there afterwards.

`Crowd` runs them against a server that may be killed at any moment. A write whose answer did not arrive may have happened
or not, whole; everything that was answered must hold. `tests/e2e/test_killed.py` kills twenty times, `benches/defence/kill.py`
two hundred.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

import httpx

from harness import API, Authenticator, Nullpass, bearer, new_email

# Small for these tests; the settings of the hash have tests of their own.
CONFIG = {
    "accounts": {"argon2": {"memory": "7MiB", "iterations": 5}},
    # The checks try void passwords and codes, which is no attack here.
    "limits": {"account_backoff": {"after": 1_000_000, "base": "1s", "max": "1s"}},
    "log": {"access": False},
}
ENDED = "ended"
LIVE = "live"
EITHER = "either"


class Lost(Exception):
    """No answer: the write may have happened or not."""


@dataclass
class Person:
    """Somebody, and what was acknowledged to them. Each belongs to one thread. `tokens` has one of each session."""

    email: str
    passwords: list[str]  # The one that holds; two where the answer to a change was lost.
    there: str = EITHER  # live, ended (deleted) or either
    tokens: dict[str, str] = field(default_factory=dict)
    api_tokens: dict[str, tuple[str, str]] = field(default_factory=dict)  # token: id, state
    second: Authenticator | None = None
    second_state: str = ENDED
    codes: list[str] = field(default_factory=list)
    spent: list[str] = field(default_factory=list)
    # Where a change of password was not answered: what its sessions were.
    before_change: list[str] = field(default_factory=list)
    did: list[str] = field(default_factory=list)

    @property
    def password(self) -> str:
        return self.passwords[0]

    def end_all(self, state: str) -> None:
        for token, was in self.tokens.items():
            if was != ENDED:
                self.tokens[token] = state


class Crowd:
    """Everybody. `work` writes until the server goes away; `check` says what is wrong."""

    def __init__(self, server: Nullpass, seed: int, threads: int = 8):
        self.server = server
        self.people: list[list[Person]] = [[] for _ in range(threads)]
        self.touched: set[int] = set()
        self.acknowledged = 0
        self.unanswered = 0
        self.unexpected: list[str] = []
        self._random = [random.Random(seed * 1000 + number) for number in range(threads)]
        self._lock = threading.Lock()

    # --- Writing ---------------------------------------------------------------------------------------------------

    def work_until_killed(self, answers: int, later: float) -> None:
        """Everybody writes; after so many answers, and a moment of so many seconds, the server is killed in the middle of
        whatever it does."""
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(len(self.people))]
        goal = self.acknowledged + answers
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while self.acknowledged < goal and any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(later)
        self.server.kill()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()

    def _work(self, number: int) -> None:
        dice, mine = self._random[number], self.people[number]
        with self.server.client(timeout=10) as client:
            while True:
                living = [p for p in mine if p.there == LIVE]
                if len(living) < 2 or dice.random() < 0.2:
                    person = Person(new_email("killed"), [f"first-{dice.randrange(10**9)}-harbour"])
                    mine.append(person)
                    action = self._register
                else:
                    person = dice.choice(living[-6:])
                    action = dice.choice([self._sign_in, self._sign_in, self._sign_out, self._refresh, self._change_password, self._second_factor, self._recover, self._api_token, self._end_api_token, self._end_others, self._delete])
                with self._lock:
                    self.touched.add(id(person))
                person.did.append(action.__name__.strip("_"))
                try:
                    action(client, person, dice)
                except Lost:
                    with self._lock:
                        self.unanswered += 1
                    return
                except KeyError as error:
                    with self._lock:
                        self.unexpected.append(f"{action.__name__}: no {error} in the answer")
                    return

    def _call(self, client: httpx.Client, method: str, path: str, body=None, token: str | None = None, expect: tuple[int, ...] = (200,)) -> dict:
        try:
            answer = client.request(method, API + path, json=body, headers=bearer(token) if token else {})
            said = answer.json() if answer.content else {}
        except (httpx.HTTPError, ValueError):
            raise Lost from None
        if answer.status_code == 503:
            raise Lost  # It says that it does not know; so nobody does.
        with self._lock:
            self.acknowledged += 1
            if answer.status_code not in expect:
                self.unexpected.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return said if answer.status_code in expect else {}

    def _fresh(self, client: httpx.Client, person: Person) -> str:
        """A token of a session that lives, signing in where there is none."""
        for token, state in person.tokens.items():
            if state == LIVE:
                return token
        return self._sign_in(client, person, None)

    def _register(self, client, person, _dice) -> None:
        said = self._call(client, "POST", "/auth/register", {"email": person.email, "password": person.password}, expect=(201,))
        person.there = LIVE
        person.tokens[said["token"]] = LIVE

    def _sign_in(self, client, person, _dice) -> str:
        said = self._call(client, "POST", "/auth/login", {"email": person.email, "password": person.password})
        if said.get("requires2FA"):
            # A recovery code can be used at once; a step of the clock only every thirty seconds.
            if not person.codes:
                raise Lost
            said = self._spend(client, person, said["pendingToken"])
        person.tokens[said["token"]] = LIVE
        return said["token"]

    def _spend(self, client, person, pending: str) -> dict:
        code = person.codes.pop()
        said = self._call(client, "POST", "/auth/login/2fa", {"pendingToken": pending, "recoveryCode": code})
        person.spent.append(code)
        return said

    def _sign_out(self, client, person, _dice) -> None:
        token = self._fresh(client, person)
        person.tokens[token] = EITHER
        self._call(client, "POST", "/auth/logout", token=token, expect=(200, 204))
        person.tokens[token] = ENDED

    def _end_others(self, client, person, _dice) -> None:
        token = self._fresh(client, person)
        person.end_all(EITHER)
        person.tokens[token] = LIVE
        self._call(client, "DELETE", "/auth/sessions?except=current", token=token, expect=(200, 204))
        for other, state in person.tokens.items():
            person.tokens[other] = ENDED if state == EITHER else state

    def _refresh(self, client, person, _dice) -> None:
        token = self._fresh(client, person)
        # The one before goes on until its successor is seen, so it holds whether this is answered or not.
        said = self._call(client, "POST", "/auth/refresh", token=token)
        # Of the same session: the older one is not followed any further.
        del person.tokens[token]
        person.tokens[said["token"]] = LIVE

    def _change_password(self, client, person, dice) -> None:
        token = self._fresh(client, person)
        new = f"next-{dice.randrange(10**9)}-lantern"
        body = {"currentPassword": person.password, "newPassword": new}
        if person.second_state == LIVE:
            if not person.codes:
                return
            body["recoveryCode"] = person.codes.pop()
        before = [t for t, state in person.tokens.items() if state != ENDED]
        person.passwords.append(new)
        person.before_change = before
        person.end_all(EITHER)
        said = self._call(client, "POST", "/auth/password", body, token=token)
        person.passwords, person.before_change = [new], []
        person.end_all(ENDED)
        person.tokens[said["token"]] = LIVE

    def _second_factor(self, client, person, _dice) -> None:
        token = self._fresh(client, person)
        if person.second_state == LIVE:
            if not person.codes:
                return
            person.second_state = EITHER
            person.end_all(EITHER)
            self._call(client, "POST", "/auth/2fa", {"enable": False, "recoveryCode": person.codes.pop(), "currentPassword": person.password}, token=token)
            person.second_state, person.codes = ENDED, []
            return
        begun = self._call(client, "POST", "/auth/2fa", {"enable": True, "currentPassword": person.password}, token=token)
        authenticator = Authenticator(begun["secret"])
        if person.second is not None:
            # A step is spent once an account, whichever secret it was of: this time it may be the same.
            return
        person.second, person.second_state = authenticator, EITHER
        person.end_all(EITHER)
        body = {"enable": True, "verificationCode": authenticator.code(), "currentPassword": person.password}
        said = self._call(client, "POST", "/auth/2fa", body, token=token)
        person.second_state, person.codes = LIVE, said["recoveryCodes"]
        person.tokens[token] = LIVE

    def _recover(self, client, person, dice) -> None:
        if person.second_state == LIVE and person.codes:
            self._sign_in(client, person, dice)

    def _api_token(self, client, person, _dice) -> None:
        token = self._fresh(client, person)
        said = self._call(client, "POST", "/auth/tokens", {"name": "killed", "currentPassword": person.password}, token=token, expect=(201,))
        person.api_tokens[said["token"]] = (said["id"], LIVE)

    def _end_api_token(self, client, person, _dice) -> None:
        for token, (ident, state) in person.api_tokens.items():
            if state == LIVE:
                session = self._fresh(client, person)
                person.api_tokens[token] = (ident, EITHER)
                self._call(client, "DELETE", f"/auth/tokens?id={ident}", {"currentPassword": person.password}, token=session, expect=(200, 204))
                person.api_tokens[token] = (ident, ENDED)
                return

    def _delete(self, client, person, dice) -> None:
        if dice.random() > 0.3 or person.second_state != ENDED:
            return
        token = self._fresh(client, person)
        person.there = EITHER
        person.end_all(EITHER)
        person.api_tokens = {t: (i, s if s == ENDED else EITHER) for t, (i, s) in person.api_tokens.items()}
        self._call(client, "DELETE", "/auth/me", {"password": person.password}, token=token, expect=(200, 204))
        person.there = ENDED
        person.end_all(ENDED)
        person.api_tokens = {t: (i, ENDED) for t, (i, _) in person.api_tokens.items()}

    # --- Looking ---------------------------------------------------------------------------------------------------

    def check(self, everybody: bool = False) -> list[str]:
        """What is not as it was acknowledged, and what is half there, among those who wrote since the last time. What was
        not known is known afterwards."""
        with self.server.client(timeout=30) as client:
            wrong = [f"unexpected answer: {text}" for text in self.unexpected]
            people = [p for mine in self.people for p in mine if everybody or id(p) in self.touched]
            for person in people:
                wrong += [f"{person.email}: {text}, after {person.did}" for text in self._check(client, person)]
            if everybody:
                wrong += self._check_list()
        self.touched.clear()
        self.unexpected.clear()
        return wrong

    def _lives(self, client, token: str) -> bool:
        status = client.get(f"{API}/auth/me", headers=bearer(token)).status_code
        assert status in (200, 401), status
        return status == 200

    def _check(self, client, person: Person) -> list[str]:
        wrong = []
        live = {token for token, state in person.tokens.items() if self._lives(client, token)}
        for token, state in person.tokens.items():
            if state != EITHER and (token in live) != (state == LIVE):
                wrong.append(f"a session was acknowledged as {state} and is not")
            person.tokens[token] = LIVE if token in live else ENDED
        for token, (ident, state) in person.api_tokens.items():
            lives = self._lives(client, token)
            if state != EITHER and lives != (state == LIVE):
                wrong.append(f"an API token was acknowledged as {state} and is not")
            person.api_tokens[token] = (ident, LIVE if lives else ENDED)
        said = {}
        for password in person.passwords:
            answer = client.post(f"{API}/auth/login", json={"email": person.email, "password": password})
            if answer.status_code == 200:
                said[password] = answer.json()
            elif answer.status_code != 401:
                wrong.append(f"sign-in: {answer.status_code} {answer.text[:200]}")
        if len(said) > 1:
            wrong.append("two passwords hold")
        if not said:
            return wrong + self._check_absence(client, person, live)
        if person.there == ENDED:
            wrong.append("a deleted account signs in")
        person.there = LIVE
        ((password, answer),) = list(said.items())[:1]
        if password != person.passwords[0] and live & set(person.before_change):
            wrong.append("the new password holds, and a session of the old one lives")
        person.passwords, person.before_change = [password], []
        return wrong + self._check_second(client, person, answer)

    def _check_second(self, client, person: Person, said: dict) -> list[str]:
        wrong = []
        asked = bool(said.get("requires2FA"))
        if person.second_state != EITHER and asked != (person.second_state == LIVE):
            wrong.append(f"the second factor was acknowledged as {person.second_state} and is not")
        if not asked:
            person.second_state, person.codes = ENDED, []
            person.tokens[said["token"]] = LIVE
            return wrong
        if person.second_state == EITHER:
            # It was turned on without an answer, or not turned off; nobody here has its codes.
            person.codes = []
        person.second_state = LIVE
        if person.spent:
            answer = client.post(f"{API}/auth/login/2fa", json={"pendingToken": said["pendingToken"], "recoveryCode": person.spent[-1]})
            if answer.status_code != 401:
                wrong.append(f"a recovery code that was used works again: {answer.status_code}")
        if person.codes:
            answer = client.post(f"{API}/auth/login/2fa", json={"pendingToken": said["pendingToken"], "recoveryCode": person.codes.pop()})
            if answer.status_code != 200:
                wrong.append(f"a recovery code that was not used does not work: {answer.status_code} {answer.text[:200]}")
            else:
                person.tokens[answer.json()["token"]] = LIVE
        return wrong

    def _check_absence(self, client, person: Person, live: set[str]) -> list[str]:
        """Nobody signs in there: then nothing of the account is left, or nothing ever was."""
        wrong = []
        if person.there == LIVE:
            wrong.append("an acknowledged account is gone, or its password")
        if live or any(state == LIVE for _, state in person.api_tokens.values()):
            wrong.append("nobody signs in, but a token of theirs lives")
        again = client.post(f"{API}/auth/register", json={"email": person.email, "password": person.password})
        # A deleted address is kept from others; one that was never registered is free.
        was_there = bool(person.tokens)
        if again.status_code != (409 if was_there else 201):
            wrong.append(f"half an account: nobody signs in, and registering says {again.status_code}")
        person.there = ENDED if again.status_code != 201 else LIVE
        if again.status_code == 201:
            person.tokens[again.json()["token"]] = LIVE
        return wrong

    def _check_list(self) -> list[str]:
        """Everybody who is listed is found by their address, and the other way round."""
        known = {p.email for mine in self.people for p in mine if p.there == LIVE}
        import json

        listed = json.loads(self.server.cli("user", "list", "--json").stdout)
        listed = listed if isinstance(listed, list) else next(v for v in listed.values() if isinstance(v, list))
        found = {user["email"] for user in listed}
        return [f"{email}: listed, but unknown" for email in found - known] + [f"{email}: not listed" for email in known - found]
