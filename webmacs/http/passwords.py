"""Passwords off the event loop: hashed one at a time, because each takes a quarter of a second of a core, and judged before that."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from webmacs import accounts, clock
from webmacs.http.limits import network_of
from webmacs.http.problem import Problem, exhausted

T = TypeVar("T")

WAITING_MAX: Final = 20
"""About 5 s of hashing; whoever comes after is told to come again."""
WAITING_OF_ADDRESS_MAX: Final = 10
"""Of these: one host cannot keep everybody else out."""
WAITING_S: Final = 30
HASH_OF_NOBODY: Final = f"$2b${accounts.BCRYPT_COST}${'.' * 53}"
"""Well-formed, of no known password: checking it takes as long as checking a real one."""
PAIR_PAUSE_S: Final = 30.0
"""Between tries of an account from an address, when their limit is used up."""


class Limit(NamedTuple):
    """So many failed tries within a time, which begins with the first of them."""

    name: str
    of: str
    failures_max: int
    window_s: float

    def exhausted(self, wait_s: float) -> Problem:
        """With the header fields of every limit."""
        seconds = max(1, round(wait_s))
        return Problem(
            429, "too-many-attempts", "Too many attempts",
            f"The limit {self.name} of {self.failures_max} failed attempts to sign in {self.of} in {self.window_s / 60:.0f} min is "
            f"used up; try again in {seconds} s.",
            headers=exhausted(self.name, self.failures_max, self.window_s, seconds),
        )  # fmt: skip


OF_PAIR: Final = Limit("sign_ins_of_account_and_address", "to one account from one address", 10, 15 * 60.0)
"""Then one try per PAIR_PAUSE_S."""
OF_ADDRESS: Final = Limit("sign_ins_of_address", "from one address", 100, 3600.0)
OF_ACCOUNT: Final = Limit("sign_ins_of_account", "to one account", 100, 3600.0)
"""From wherever they come. Neither of the two holds back whoever signs in from an address that succeeded before."""
TRACKED_MAX: Final = 10_000
"""Of each kind remembered; what was touched longest ago is forgotten first."""


class Passwords:
    """Hashes and verifies in one thread. `key` is accounts.password_key(...)."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="passwords")
        self._waiting: Counter[str] = Counter()
        """By the network of the address that asks."""

    async def hash(self, password: str, address: str) -> str:
        """`address` is who asks. Raises a 429."""
        return await self._run(address, lambda: accounts.hash_password(self._key, password))

    async def verify(self, password: str, password_hash: str | None, address: str) -> bool:
        """False after the same time of work when there is no such user (`password_hash` None). Raises a 429."""
        return await self._run(address, lambda: self._verify(password, password_hash))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _verify(self, password: str, password_hash: str | None) -> bool:
        right = accounts.verify_password(self._key, password, password_hash or HASH_OF_NOBODY)
        return right and password_hash is not None

    async def _run(self, address: str, work: Callable[[], T]) -> T:
        network = network_of(address)
        if self._waiting.total() >= WAITING_MAX:
            raise _full(f"{WAITING_MAX} passwords")
        if self._waiting[network] >= WAITING_OF_ADDRESS_MAX:
            raise _full(f"{WAITING_OF_ADDRESS_MAX} passwords from one address")
        self._waiting[network] += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= Counter((network,))  # which forgets who has none


def _full(which: str) -> Problem:
    return Problem(
        429, "too-many-attempts", "Too many attempts",
        f"The limit of {which} that wait to be judged is reached; try again in {WAITING_S} s.",
        headers={"Retry-After": str(WAITING_S)},
    )  # fmt: skip


@dataclass(slots=True)
class _Failures:
    """Failed tries of one key within a window that begins with the first of them."""

    begun: float
    last: float
    count: int = 0


@dataclass(slots=True)
class LoginThrottle:
    """Counts failed logins in memory. A try counts as failed from its beginning, so that many at once are judged like one by one.
    An address is that of limits.network_of."""

    _pairs: OrderedDict[tuple[str, str], _Failures] = field(default_factory=OrderedDict)
    _addresses: OrderedDict[str, _Failures] = field(default_factory=OrderedDict)
    _accounts: OrderedDict[str, _Failures] = field(default_factory=OrderedDict)
    _succeeded: OrderedDict[tuple[str, str], None] = field(default_factory=OrderedDict)
    """Accounts with an address from which they signed in before."""

    @contextmanager
    def judging(self, account: str, address: str) -> Iterator[None]:
        """Around what judges a try. A try that it does not judge, as without a database, is none. Raises a 429."""
        self.begin(account, address)
        try:
            yield
        except BaseException:
            self._take_back(account, address)
            raise

    def begin(self, account: str, address: str) -> None:
        """Raises a 429 when this try may not even be hashed."""
        now, pair = clock.monotonic(), _pair(account, address)
        of_address = _entry(self._addresses, pair[1], now, OF_ADDRESS.window_s)
        of_account = _entry(self._accounts, pair[0], now, OF_ACCOUNT.window_s)
        if pair not in self._succeeded:
            for failures, limit in ((of_address, OF_ADDRESS), (of_account, OF_ACCOUNT)):
                if failures.count >= limit.failures_max:
                    raise limit.exhausted(failures.begun + limit.window_s - now)
        of_pair = _entry(self._pairs, pair, now, OF_PAIR.window_s)
        if of_pair.count >= OF_PAIR.failures_max and now < of_pair.last + PAIR_PAUSE_S:
            raise OF_PAIR.exhausted(of_pair.last + PAIR_PAUSE_S - now)
        for failures in (of_address, of_account, of_pair):
            failures.count += 1
            failures.last = now

    def succeeded(self, account: str, address: str) -> None:
        self._take_back(account, address)
        pair = _pair(account, address)
        self._pairs.pop(pair, None)
        self._succeeded[pair] = None
        self._succeeded.move_to_end(pair)
        if len(self._succeeded) > TRACKED_MAX:
            self._succeeded.popitem(last=False)

    def _take_back(self, account: str, address: str) -> None:
        pair = _pair(account, address)
        for of_one in (self._addresses.get(pair[1]), self._accounts.get(pair[0]), self._pairs.get(pair)):
            if of_one is not None:
                of_one.count = max(0, of_one.count - 1)


def _pair(account: str, address: str) -> tuple[str, str]:
    return account.lower(), network_of(address)


K = TypeVar("K")


def _entry(entries: OrderedDict[K, _Failures], key: K, now: float, window_s: float) -> _Failures:
    found = entries.get(key)
    if found is None or now - found.begun > window_s:
        found = entries[key] = _Failures(now, now)
    entries.move_to_end(key)
    if len(entries) > TRACKED_MAX:
        entries.popitem(last=False)
    return found
