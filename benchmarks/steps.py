"""Steps of load, carried out by Locust in this process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, ClassVar

import gevent
from gevent.pool import Pool
from locust import constant, task
from locust.env import Environment
from locust.exception import StopUser

from benchmarks.locustfile import PHOTOGRAPHS, SEED, SHARES, Visitor, post
from benchmarks.measured import Measured, count_errors, meets

TICK = 2.0  # seconds between two lines of progress
WARM_UP_SECONDS = 3.0
WARM_UPS = 10  # of them at most, until there is a reply
GRACE_SECONDS = 60.0  # for the replies that are still due when a step ends
HALVINGS = 5  # the highest rate is known to a 32nd part


class NoServer(Exception):
    """Nobody answers, or not with colours."""


class Arrivals(Visitor):
    """Sends each request when it is due, whether the last is back or not."""

    wait_time = constant(0)
    concurrency = 1000  # connections: none has to wait for another's reply
    due: ClassVar[list[float]] = []  # seconds from the start

    @task
    def colorize(self) -> None:
        """Send all that are due, and end."""
        pool = Pool()
        start = time.perf_counter()
        for seconds in self.due:
            gevent.sleep(max(0.0, start + seconds - time.perf_counter()))
            photograph = self.random.choices(PHOTOGRAPHS, SHARES)[0]
            pool.spawn(post, self, photograph, start + seconds)
        pool.join(timeout=GRACE_SECONDS)
        raise StopUser


def mix_in_words() -> str:
    """What is posted, and how often."""
    shares: dict[str, float] = {}
    for photograph, share in zip(PHOTOGRAPHS, SHARES, strict=True):
        shares[photograph.name] = shares.get(photograph.name, 0.0) + share
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


class Load:
    """A server under load."""

    def __init__(self, host: str, seconds: float, say: Callable[[Any], None]) -> None:
        self.host, self.seconds, self.say = host, seconds, say

    def warm_up(self) -> None:
        """Post for a moment, which is not counted.

        Raises:
            NoServer: if nothing comes back in colour.
        """
        for _ in range(WARM_UPS):
            one = self._run("warming up", Visitor, 1, None, WARM_UP_SECONDS)
            if one.times or one.errors:
                break
        if not one.times:
            kinds = ", ".join(one.errors) or "no reply"
            raise NoServer(f"{self.host} gives no colours ({kinds}): start it with make serve")

    def closed(self, users: int) -> Measured:
        """So many users, each posting as soon as the last photograph is back."""
        return self._run(f"{users} users", Visitor, users, None, self.seconds)

    def open(self, rate: float) -> Measured:
        """Requests that arrive by a Poisson process of so many a second."""
        arrivals, now, due = random.Random(SEED), 0.0, []
        while (now := now + arrivals.expovariate(rate)) < self.seconds:
            due.append(now)
        Arrivals.due = due or [0.0]
        return self._run(f"{rate:.2f}/s", Arrivals, 1, len(Arrivals.due) / self.seconds, None)

    def limit(self, max_p99: float, max_errors: float, start: float) -> list[Measured]:
        """Look for the highest rate within the bound: double until it breaks, then halve."""
        low, high, rate = 0.0, 0.0, start
        tried: list[Measured] = []
        while rate * self.seconds >= 1 and (not high or high - low > high / 2**HALVINGS):
            tried.append(self.open(rate))
            if meets(tried[-1], max_p99, max_errors):
                low = rate
            else:
                high = rate
            rate = (low + high) / 2 if high else 2 * low
        return tried

    def _run(
        self,
        load: str,
        kind: type[Visitor],
        users: int,
        offered: float | None,
        seconds: float | None,
    ) -> Measured:
        """Run users until the time is over, or until they have ended by themselves."""
        environment = Environment(user_classes=[kind], host=self.host, stop_timeout=GRACE_SECONDS)
        times: list[float] = []
        errors: list[str] = []

        def heard(response_time: float, exception: Exception | None, **_: Any) -> None:
            if exception is None:
                times.append(response_time)
            else:
                errors.append(exception.args[0] if exception.args else type(exception).__name__)

        environment.events.request.add_listener(heard)  # type: ignore[no-untyped-call]
        runner = environment.create_local_runner()
        start = time.perf_counter()
        runner.start(users, spawn_rate=users)
        shown = start
        try:
            while True:
                gevent.sleep(0.05)
                now = time.perf_counter()
                if now - shown > TICK:
                    shown = now
                    self.say(f"{load}: {now - start:.0f} s, {len(times)} good, {len(errors)} bad")
                if seconds is not None and now - start > seconds:
                    break
                if seconds is None and now - start > 0.5 and runner.user_count == 0:
                    break
            runner.stop()  # lets each user have the reply that is due
            took = time.perf_counter() - start
        finally:
            environment.stop_timeout = 0
            runner.quit()
        return Measured(load, offered, len(times) / took, times, count_errors(errors))
