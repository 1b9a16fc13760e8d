"""Measure the HTTP API under many clients at once.

    python scripts/benchmarks/benchmark_api.py [--clients 50] [--seconds 60] [--out docs/results/benchmarks]

`facereel serve` runs in a process of its own, on an index of drawn people. Each client sends the next request as soon
as it has an answer: one in three is a search with a photo, the others are for the status, a list of tracks or a
thumbnail. The clients run on the same machine, so that they take a part of its time.
"""

import asyncio
import importlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import cv2
import httpx
from measure import Report, benchmark_parser, heading

REPOSITORY = Path(__file__).parents[2]
API = "/api/v1"
TOKEN = "an-example-token"
PEOPLE = ("Anna", "Bert", "Dora", "Emil")
SEARCH = "search with a photo of 640 x 480 pixels"


class Clients:
    """Clients that send requests until a time, and the times of their answers.

    Args:
        address: address of the server.
        photos: JPEG files.
    """

    def __init__(self, address: str, photos: list[bytes]) -> None:
        self._address, self._photos = address, photos
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.errors: list[str] = []

    async def run(self, n_clients: int, seconds: float) -> float:
        """Run clients, and return the seconds until the last answer."""
        started = time.monotonic()
        await asyncio.gather(*(self._client(number, started + seconds) for number in range(n_clients)))
        return time.monotonic() - started

    async def _client(self, number: int, until: float) -> None:
        chance = random.Random(number)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=self._address + API, headers=headers, timeout=120) as client:
            while time.monotonic() < until:
                kind = chance.choice([SEARCH, SEARCH, SEARCH, *["status", "tracks", "thumbnail"] * 2])
                started = time.perf_counter()
                try:
                    answer = await self._send(client, kind, chance)
                    if answer.status_code != 200:
                        self.errors.append(f"{kind}: {answer.status_code} {answer.text[:200]}")
                except httpx.HTTPError as error:
                    self.errors.append(f"{kind}: {error!r}")
                self.seconds[kind].append(time.perf_counter() - started)

    async def _send(self, client: httpx.AsyncClient, kind: str, chance: random.Random) -> httpx.Response:
        if kind == SEARCH:
            return await client.post("/search", files={"photo": chance.choice(self._photos)}, data={"top": 5})
        addresses = {"status": "/status", "tracks": "/tracks?limit=100", "thumbnail": "/tracks/1/thumbnail"}
        return await client.get(addresses[kind])


def draw_photos() -> list[bytes]:
    """Return a photo of each person."""
    people = importlib.import_module("drawn_people")
    return [cv2.imencode(".jpg", people.draw_image(name, width=640, height=480))[1].tobytes() for name in PEOPLE]


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    sys.path += [str(REPOSITORY / "tests" / "helpers"), str(REPOSITORY / "examples")]
    drawn, serving = importlib.import_module("drawn_archive"), importlib.import_module("serving")
    with tempfile.TemporaryDirectory() as folder:
        index = drawn.make_index(Path(folder)) / "index"
        with serving.serving(index, "--token", TOKEN) as address:
            clients = Clients(address.partition("/?")[0], draw_photos())
            asyncio.run(clients.run(1, 3))  # the first search loads the codes
            clients.seconds.clear()
            load = os.getloadavg()[0]
            taken = asyncio.run(clients.run(arguments.clients, arguments.seconds))
    report = Report()
    report.say("# The HTTP API under many clients")
    report.say()
    report.say("After this page you know how long answers take while many clients ask at the same time.")
    report.say()
    report.say("    python scripts/benchmarks/benchmark_api.py")
    report.say()
    n_requests = sum(map(len, clients.seconds.values()))
    report.say(
        f"{heading()}; {arguments.clients} clients for {taken:.0f} s on the machine of the server. Before they "
        f"started, other work on it made a load of {load:.1f}."
    )
    report.say()
    report.say("| request | requests | per second | median, ms | 95th percentile, ms | longest, ms |")
    report.say("|---|---:|---:|---:|---:|---:|")
    for kind, times in sorted(clients.seconds.items()):
        tail = statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0]
        numbers = (1000 * value for value in (statistics.median(times), tail, max(times)))
        cells = " | ".join(f"{number:,.0f}" for number in numbers)
        report.say(f"| {kind} | {len(times):,} | {len(times) / taken:.1f} | {cells} |")
    report.say()
    for error in sorted(set(clients.errors))[:10]:
        print(error, file=sys.stderr)
    report.target(f"{n_requests:,} requests, {len(clients.errors)} errors", not clients.errors)
    report.write(arguments.out / "api.md")
    report.finish()


if __name__ == "__main__":
    main()
