"""The workers' path to the database: what is stopped or killed when that is cut.

    proxy.py LISTEN-SOCKET SERVER-SOCKET
"""
import asyncio
import os
import sys

here, there = sys.argv[1:3]


async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def serve(reader, writer):
    try:
        server_reader, server_writer = await asyncio.open_unix_connection(there)
    except OSError:
        writer.close()
        return
    await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))


async def main():
    if os.path.exists(here):
        os.unlink(here)
    server = await asyncio.start_unix_server(serve, here)
    await server.serve_forever()


asyncio.run(main())
