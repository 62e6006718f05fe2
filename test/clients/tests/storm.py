"""storm.py restart|terminate: two gateways and two workers while the server restarts, or every
connection is ended, again and again. Each client sees exactly one answer to each message.

RESTART is the command that restarts the server; the mode is added to it.
"""
import collections
import itertools
import logging
import os
import subprocess
import sys
import threading

from common import PREFIX, enqueue, expect, make_pool, quiet, spawn, until
from database import repeat, rows, transaction
from gateway import Gateway
from worker import Worker

logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)     # lost connections are no news here
CONVERSATIONS = 10
last_blow = threading.Event()
over = threading.Event()
hits = 0
in_flight = set()


def restart(n):
    subprocess.run(f"{os.environ['RESTART']} -m {'fast' if n % 2 else 'immediate'}", shell=True, check=True)


def terminate(n):
    rows(pools[0], "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'"
         " AND datname = current_database() AND pid <> pg_backend_pid()")


ROUNDS, hit = {"restart": (3, restart), "terminate": (10, terminate)}[sys.argv[1]]


def answer(turn):
    """Half of the answers take until the next blow has fallen."""
    begun = hits
    in_flight.add(turn)
    if turn.job["slow"]:
        until(lambda: hits > begun or last_blow.is_set())
    in_flight.discard(turn)
    return {"content": turn.message_id}


def work(worker):
    """A queue that delivers at least once: a job stays until its turn has ended."""
    while not over.wait(0.01):
        jobs = rows(worker.pool, "SELECT payload FROM my_jobs WHERE starts_with(payload->>'deployment', %s)"
                    " ORDER BY random() LIMIT 1", PREFIX)
        for (job,) in jobs:
            result = worker.run(job, answer)
            turn = rows(worker.pool, "SELECT ended_at FROM turn_liveness.get_turn(%s, %s)",
                        job["deployment"], job["messageId"])
            if result is not None or turn[0].ended_at:
                rows(worker.pool, "DELETE FROM my_jobs WHERE payload->>'messageId' = %s"
                     " AND payload->>'deployment' = %s RETURNING 1", job["messageId"], job["deployment"])


def see(reply):
    seen[reply.message_ids[0]].append(reply.payload.get("errorCode", "answer"))


def send(payload, timeout, reply):
    pushed.add(payload["content"])


def feed(c):
    """A new message in the conversation when the last one has its answer; each fifth is pushed."""
    gateway, deployment = gateways[c % 2], f"{PREFIX}/{c}"
    while not last_blow.is_set():
        n = next(numbers)
        job = {"deployment": deployment, "messageId": str(n), "slow": n % 2 == 0, "routing": {}}
        if n % 5 == 0:
            job["routing"] = {"conversationId": f"{deployment}/pushed", "platform": PREFIX}
        dispatched.append(str(n))
        transaction(gateway.pool, lambda db: gateway.dispatch(db, job))
        until(lambda: str(n) in seen or str(n) in pushed, f"the end of {n}")


pools = [make_pool(max_size=6) for _ in range(4)]
seen = collections.defaultdict(list)            # of each turn, what its client got
pushed = set()
dispatched = []
numbers = itertools.count()
gateways = [Gateway(pool, enqueue, send=send, platforms=[PREFIX], name=f"{PREFIX}-{i}", report=quiet)
            for i, pool in enumerate(pools[:2])]
workers = [Worker(pool, name=f"{PREFIX}-{i}", every=0.1, report=quiet) for i, pool in enumerate(pools[2:])]
for gateway in gateways:
    gateway.listen()
for c in range(CONVERSATIONS):
    gateways[c % 2].stream(f"{PREFIX}/{c}", "0", see)
working = [spawn(work, worker) for worker in workers for _ in range(CONVERSATIONS)]
feeding = [spawn(feed, c) for c in range(CONVERSATIONS)]

for n in range(ROUNDS):
    before = len(seen) + len(pushed)
    until(lambda: len(in_flight) >= CONVERSATIONS / 2)
    repeat(lambda: hit(n))
    hits += 1
    until(lambda: len(seen) + len(pushed) >= before + CONVERSATIONS / 2, f"answers after blow {hits}")
last_blow.set()
for thread in feeding:
    thread.join()
over.set()
for thread in working:
    thread.join()

ends = {"pushed" if n in pushed else ",".join(seen[n]) for n in dispatched}
expect("ends", ends, {"answer", "pushed"})
print(f"{len(dispatched)} turns, {hits} blows")
for part in [*workers, *gateways, *pools]:
    part.close()
