"""Steps of load, carried out by Locust in this process."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

import gevent
import psutil
from gevent.pool import Pool
from locust import constant, task
from locust.env import Environment
from locust.exception import StopUser

from benchmarks.locustfile import SEED, Visitor, chosen, endless, post
from benchmarks.measured import Measured, count_errors, meets
from benchmarks.pictures import Photograph, deck
from benchmarks.servers import NoServer

TICK = 2.0  # seconds between two lines of progress
WARM_UP_SECONDS = 3.0
WARM_UPS = 10  # of them at most, until there is a reply
GRACE_SECONDS = 60.0  # for the replies that are still due when a step ends


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
        photographs = endless(random.Random(SEED))
        for seconds in self.due:
            gevent.sleep(max(0.0, start + seconds - time.perf_counter()))
            pool.spawn(post, self, next(photographs), start + seconds)
        pool.join(timeout=GRACE_SECONDS)
        raise StopUser


class Load:
    """A server under load.

    Args:
        url: of a network.
        seconds: of a step.
        say: takes lines of progress.
        photographs: what to post, and how often each; None: as `locustfile.chosen`.
    """

    def __init__(
        self,
        url: str,
        seconds: float,
        say: Callable[[Any], None],
        photographs: tuple[list[Photograph], list[float]] | None = None,
    ) -> None:
        parts = urlsplit(url)
        self.host, self.path = f"{parts.scheme}://{parts.netloc}", parts.path
        self.seconds, self.say = seconds, say
        self.photographs, self.shares = photographs or chosen()

    def mix_in_words(self) -> str:
        """What is posted, and how often."""
        shares: dict[str, float] = {}
        for photograph, share in zip(self.photographs, self.shares, strict=True):
            shares[photograph.name] = shares.get(photograph.name, 0.0) + share
        return ", ".join(f"{name} {share:.0%}" for name, share in shares.items())

    def warm_up(self) -> None:
        """Post for a moment, which is not counted.

        Raises:
            NoServer: if nothing comes back in colour.
        """
        seconds = min(WARM_UP_SECONDS, self.seconds)
        for _ in range(WARM_UPS):
            one = self._run("warming up", Visitor, 1, None, seconds)
            if one.times or one.errors:
                break
        if not one.times:
            kinds = ", ".join(one.errors) or "no reply"
            raise NoServer(f"{self.host} gives no colours ({kinds}): start it with make serve")

    def closed(self, users: int) -> Measured:
        """So many users, each posting as soon as the last photograph is back."""
        return self._run(f"{users} users", Visitor, users, None, self.seconds)

    def errands(self, users: int, photographs: Sequence[Photograph]) -> Measured:
        """So many users who post these photographs between them, each once."""
        return self._run(f"{users} users", Visitor, users, None, None, iter(photographs))

    def cards(self) -> list[Photograph]:
        """The photographs, shuffled, each as often as its share says."""
        return deck(self.photographs, self.shares, random.Random(SEED))

    def open(self, rate: float, even: bool = False) -> Measured:
        """Requests that arrive by a Poisson process of so many a second, or evenly spaced."""
        Arrivals.due = self.due(rate, even)
        return self._run(f"{rate:.2f}/s", Arrivals, 1, len(Arrivals.due) / self.seconds, None)

    def due(self, rate: float, even: bool = False) -> list[float]:
        """Seconds at which requests are due: the same for the same rate; at least one."""
        if even:
            return [k / rate for k in range(max(1, int(rate * self.seconds)))]
        arrivals, now, due = random.Random(SEED), 0.0, []
        while (now := now + arrivals.expovariate(rate)) < self.seconds:
            due.append(now)
        return due or [0.0]

    def limit(
        self, max_p99: float, max_errors: float, start: float, halvings: int
    ) -> list[Measured]:
        """Look for the highest rate within the bound: double until it breaks, then halve."""
        low, high, rate = 0.0, 0.0, start
        tried: list[Measured] = []
        while rate * self.seconds >= 1 and (not high or high - low > high / 2**halvings):
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
        errands: Iterator[Photograph] | None = None,
    ) -> Measured:
        """Run users until the time is over, or until they have ended by themselves."""
        Visitor.path, Visitor.errands = self.path, errands
        Visitor.photographs, Visitor.shares = self.photographs, self.shares
        environment = Environment(user_classes=[kind], host=self.host, stop_timeout=GRACE_SECONDS)
        times: list[float] = []
        errors: list[str] = []
        stages: list[dict[str, float]] = []
        last = 0.0

        def heard(
            response_time: float, exception: Exception | None, response: Any = None, **_: Any
        ) -> None:
            nonlocal last
            last = time.perf_counter()
            if exception is None:
                times.append(response_time)
                stages.append(_stages((response.headers or {}).get("Server-Timing", "")))
            else:
                errors.append(exception.args[0] if exception.args else type(exception).__name__)

        environment.events.request.add_listener(heard)  # type: ignore[no-untyped-call]
        runner = environment.create_local_runner()
        psutil.cpu_percent()  # counts from here
        ours = psutil.Process()
        ours_before = sum(ours.cpu_times()[:2])
        start = time.perf_counter()
        runner.start(users, spawn_rate=users)
        shown = start
        try:
            while True:
                gevent.sleep(0.02)
                now = time.perf_counter()
                if now - shown > TICK:
                    shown = now
                    self.say(f"{load}: {now - start:.0f} s, {len(times)} good, {len(errors)} bad")
                if seconds is not None and now - start > seconds:
                    break
                if seconds is None and now - start > 0.5 and runner.user_count == 0:
                    break
            runner.stop()  # lets each user have the reply that is due
            busy = psutil.cpu_percent() / 100
        finally:
            environment.stop_timeout = 0
            runner.quit()
        took = max(last, start + 1e-3) - start
        client = (sum(ours.cpu_times()[:2]) - ours_before) / took / (psutil.cpu_count() or 1)
        means = {
            name: statistics.mean(one[name] for one in stages)
            for name in (stages[0] if stages else {})
            if all(name in one for one in stages)
        }
        found = len(times) / took
        return Measured(load, offered, found, times, count_errors(errors), busy, client, means)


def _stages(header: str) -> dict[str, float]:
    """Stage -> milliseconds, of a header Server-Timing."""
    pairs = (one.strip().partition(";dur=") for one in header.split(",") if ";dur=" in one)
    return {name: float(value) for name, _, value in pairs}
