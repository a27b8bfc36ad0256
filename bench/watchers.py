"""Many dashboards in a process of their own: each socket subscribes to the same events and counts what it gets.

`python -m bench.watchers` reads {"url", "tokens", "sockets", "events", "interval_ms", "stuck"} from its standard input, answers a line
when every socket has its snapshot, watches until a line comes, and prints what was seen as JSON.
"""

import asyncio
import json
import sys
import time
from datetime import datetime

import uvloop
from webmacs_controller.wire import SILENCE_S_MAX
from websockets.asyncio.client import ClientConnection, connect

CONNECTING_MAX = 16
PING_S = SILENCE_S_MAX / 3
STAMP = '"timestamp":"'


async def main(wanted: dict[str, object]) -> None:
    tokens, sockets = list(wanted["tokens"]), int(wanted["sockets"])  # type: ignore[call-overload]
    subscription = json.dumps({"type": "subscribe", "events": wanted["events"], "interval_ms": wanted["interval_ms"]})
    entering = asyncio.Semaphore(CONNECTING_MAX)
    delays_ms: list[float] = []
    counts = [0] * sockets
    counting = False
    tasks: list[asyncio.Task[None]] = []

    async def enter(number: int) -> ClientConnection:
        async with entering:
            headers = {"Authorization": f"Bearer {tokens[number % len(tokens)]}"}
            socket = await connect(str(wanted["url"]), additional_headers=headers, compression=None, ping_interval=None, max_size=None)
            await socket.send(subscription)
            tasks.append(asyncio.create_task(live(socket)))
            while '"snapshot"' not in str(await socket.recv())[:40]:
                pass
            return socket

    async def watch(number: int, socket: ClientConnection) -> None:
        async for message in socket:
            now = time.time()
            text = str(message)
            if counting and text.startswith('{"type":"datapoints_batch"'):
                counts[number] += 1
                begin = text.index(STAMP) + len(STAMP)
                delays_ms.append((now - datetime.fromisoformat(text[begin : text.index('"', begin)]).timestamp()) * 1000)

    async def live(socket: ClientConnection) -> None:
        while True:
            await asyncio.sleep(PING_S)
            await socket.send('{"type":"ping"}')

    opened = await asyncio.gather(*(enter(number) for number in range(sockets)))
    stuck = await asyncio.gather(*(enter(-1) for _ in range(int(wanted["stuck"]))))  # type: ignore[call-overload]
    for socket in stuck:  # what it has said so far is all that it will hear
        socket.transport.pause_reading()
    tasks += [asyncio.create_task(watch(number, socket)) for number, socket in enumerate(opened)]
    print("watching", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    counting = True
    await asyncio.to_thread(sys.stdin.readline)
    counting = False
    closed = sum(socket.close_code is not None for socket in opened)
    print(json.dumps({"counts": counts, "delays_ms": sorted(delays_ms), "closed": closed}), flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.stdin.readline())))
