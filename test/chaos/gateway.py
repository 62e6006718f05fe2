"""A gateway: arms turns, dispatches them to workers through files, and does to some what users do."""
import heapq
import os
import random
import time

from common import Session, arguments
from life import (ADMISSION, DEPLOYMENTS, DURATION, columns, is_pushed, kind_of, number, rescue_of,
                  silence_of, split)

TICK = 0.05

name, directory, client, rest = arguments()
rate, workers = float(rest[0]), int(rest[1])
session = Session(client, lock_timeout=random.choice((0, 3000)))
short, incarnation = name.split(".")
jobs = [os.open("%s/jobs.%d" % (directory, i), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for i in range(workers)]
later = []              # (time, what, key)


def dispatch(keys, shift):
    lines = {}
    for key in keys:
        lines.setdefault((number(split(key)[0]) + shift) % workers, []).append(key)
    for worker, some in lines.items():
        os.write(jobs[worker], ("\n".join(some) + "\n").encode())


def routing(key):
    return '{"platform": "push"}' if is_pushed(split(key)[0]) else '{"platform": "web"}'


def arm(keys, op="arm", **fate):
    """Each item: key, admission, silence, duration, rescue window; None for what is kept."""
    keys = sorted(keys)
    items = [[key, ADMISSION, silence_of(key), 6 if kind_of(key) == "too_long" else DURATION, rescue_of(key)]
             if op == "arm" else [key] + [None] * 4 for key in keys]
    key, admission, silence, duration, rescue = columns(items, 5)
    deployment, message = columns([split(k) for k in key], 2)
    return session.call(op, items, """
        SELECT d || '/' || m, turn_liveness.arm_turn(d, m, r::jsonb, make_interval(secs => a),
               make_interval(secs => s), make_interval(secs => l), make_interval(secs => w))::text
        FROM unnest(%s::text[], %s::text[], %s::text[], %s::float[], %s::float[], %s::float[], %s::float[])
             AS t(d, m, r, a, s, l, w)""",
        (deployment, message, [routing(k) for k in key], admission, silence, duration, rescue), **fate)


def after_arm(key):
    now = time.time()
    delay = {"again": 0.8, "fail": 0.6, "reject": 0.6, "discharge": 0.6, "suspend": 2.5}.get(kind_of(key))
    if delay and (kind_of(key) != "suspend" or number("u" + key) % 3 == 0):
        heapq.heappush(later, (now + delay * random.uniform(0.5, 1.5), kind_of(key), key))


CALLS = {
    "fail": "turn_liveness.fail_turn(d, m, 'stopped', 'GATEWAY')::text",
    "reject": "turn_liveness.reject_turn(d, m, '{}', 'stopped', 'CANCELLED')::text",
    "discharge": "turn_liveness.discharge_turn(d, m)",
    "suspend": "turn_liveness.resume_turn(d, m)",
}


def act(what, keys):
    """One of the other calls for these turns; they are tried again until one is committed."""
    if what == "again":
        rows = arm(keys, "again")
        if rows is not None:
            dispatch([key for key, result in rows if result != "answered"], 1)
    else:
        deployment, message = columns([split(k) for k in sorted(keys)], 2)
        rows = session.call("resume" if what == "suspend" else what, [[k] for k in sorted(keys)],
                            "SELECT d || '/' || m, %s FROM unnest(%%s::text[], %%s::text[]) AS t(d, m)"
                            % CALLS[what], (deployment, message))
        if rows is not None and what == "suspend":
            dispatch([key for key, done in rows if done], 1)
    if rows is None:
        for key in keys:
            heapq.heappush(later, (time.time() + 0.3, what, key))


def rescue():
    rows = session.call("rescue", [], """
        SELECT deployment || '/' || message_id, generation, error_code
        FROM turn_liveness.rescue_turns(200)""", fate=random.choice(["commit"] * 9 + ["rollback"]))
    if rows and not session.client.stopping:
        dispatch([row[0] for row in rows], rows[0][1])


def main():
    serial = 0
    unsure = []             # arms whose end the gateway does not know
    next_rescue = 0
    while True:
        began = time.time()
        keys = unsure
        if not keys and not client.stopping:
            keys = ["%sd%d/%s.%d" % (short, (serial + i) % DEPLOYMENTS, incarnation, serial + i)
                    for i in range(max(1, int(rate * TICK)))]
            serial += len(keys)
            undone = [k for k in keys if kind_of(k) == "undone"]
            keys = [k for k in keys if kind_of(k) != "undone"]
            if undone:
                arm(undone, fate="rollback")
        if keys:
            rows = arm(keys, "arm", fate=random.choice(["commit"] * 19 + ["savepoint"]))
            unsure = keys if rows is None else []
            if rows is not None:
                dispatch([key for key, result in rows if result != "answered" and kind_of(key) != "never"], 0)
                for key in keys:
                    after_arm(key)
        due = {}
        while later and (later[0][0] <= began or client.stopping):
            _, what, key = heapq.heappop(later)
            due.setdefault(what, set()).add(key)
        for what, some in due.items():
            act(what, some)
        if began >= next_rescue:
            next_rescue = began + 0.5
            rescue()
        if client.stopping and not unsure and not later:
            break
        time.sleep(max(0, began + TICK - time.time()))


main()
