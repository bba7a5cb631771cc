"""A TCP proxy that cuts, delays, stalls or trickles on command. A process of its own that reads commands on stdin.

    python -m tests.chaos.proxy api:6401:/run/valkey.sock worker:6402:/run/valkey.sock

Commands: `<link> cut`, `<link> delay 0.2`, `<link> stall 1` (half-open), `<link> trickle 1` (a byte at a time),
`<link> tear 100` (cut in the middle of an answer, after so many bytes), `<link> clear`. Each is answered with `ok`.
"""

import asyncio
import sys


class Link:
    """One listening port and its connections."""

    def __init__(self, name: str, port: int, target: str) -> None:
        self.name = name
        self.port = port
        self.target = target
        self.writers: set[asyncio.StreamWriter] = set()
        self.clear()

    def clear(self) -> None:
        self.delay_s = 0.0
        self.tear_after = -1
        self.is_stalled = False
        self.is_trickling = False

    async def start(self) -> None:
        await asyncio.start_server(self.accept, "127.0.0.1", self.port, backlog=4096)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(self.target)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, up_writer}
        self.writers |= pair
        try:
            await asyncio.gather(self.pump(reader, up_writer), self.pump(up_reader, writer, is_answer=True))
        except OSError:
            pass
        finally:
            self.writers -= pair
            for one in pair:
                one.transport.abort()

    async def pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool = False
    ) -> None:
        while data := await reader.read(65536):
            while self.is_stalled:
                await asyncio.sleep(0.02)
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if is_answer and self.tear_after >= 0:
                writer.write(data[: self.tear_after])
                await writer.drain()
                break
            if self.is_trickling:
                for at in range(min(len(data), 200)):
                    writer.write(data[at : at + 1])
                    await asyncio.sleep(0)
                data = data[200:]
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

    def obey(self, command: str, value: float) -> None:
        if command == "cut":
            for writer in list(self.writers):
                writer.transport.abort()
        elif command == "delay":
            self.delay_s = value
        elif command == "stall":
            self.is_stalled = value > 0
        elif command == "trickle":
            self.is_trickling = value > 0
        elif command == "tear":
            self.tear_after = int(value)
        elif command == "clear":
            self.clear()


async def main() -> None:
    links = {}
    for argument in sys.argv[1:]:
        name, port, target = argument.split(":", 2)
        links[name] = Link(name, int(port), target)
        await links[name].start()
    print("ok", flush=True)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        name, command, *value = line.decode().split()
        links[name].obey(command, float(value[0]) if value else 0.0)
        print("ok", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
