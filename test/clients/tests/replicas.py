"""Two replicas push 100 replies that take 400 ms each: 100 are sent. The time is the server's
liveness clock and the gateways' own, which each message moves on.
"""
import threading
import time

from common import PREFIX, enqueue, expect, make_pool, make_stepper
from database import rows, value
from gateway import Gateway

N = 100
pool = make_pool(max_size=4)
advance = make_stepper(pool)
lock = threading.Lock()
sent = []


def send(payload, timeout, reply):
    advance("400 ms")
    with lock:
        sent.append(payload["error"])


def clock():
    return time.monotonic() + 0.4 * len(sent)


replicas = [Gateway(pool, enqueue, send=send, platforms=[PREFIX], name=f"{PREFIX}-{name}", clock=clock)
            for name in ("a", "b")]
rows(pool, "SELECT turn_liveness.reject_turn(%s, i::text, %s, i::text) FROM generate_series(1, %s::int) i",
     PREFIX, '{"platform": "%s"}' % PREFIX, N)
delivered = "SELECT count(*) FROM turn_liveness.replies WHERE platform = %s AND state = 'delivered'"
while value(pool, delivered, PREFIX) < N:
    for replica in replicas:
        replica.push()
    time.sleep(0.01)
for replica in replicas:
    replica.close()
expect("sent", len(sent), N)
expect("each", len(set(sent)), N)
pool.close()
