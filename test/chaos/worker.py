"""A worker process that serves many turns: one session works, another one beats."""
import heapq
import os
import random
import threading
import time

from common import Session, arguments
from life import beats_whole, columns, is_attached, kind_of, number, split

TICK = 0.04

name, directory, client, rest = arguments()
live = {}               # key -> generation: what the beats name
plan = []               # (time, action, key, generation)
prepared = []           # (time, gid, commit?)
attached = set()        # of the working session
serial = 0


def connected(session):
    attached.clear()


work = Session(client, on_connect=connected, lock_timeout=random.choice((0, 3000)))
beat = Session(client)


def beats():
    """Beat once a second, and give up what the beats say."""
    while not client.stopping:
        turns = list(live.items())
        if turns:
            items = [[key, generation] for key, generation in turns if not beats_whole(split(key)[0])]
            # not all name a generation
            items = [[k, g if number(k) % 10 else None] for k, g in items]
            whole = {split(key)[0] for key, _ in turns if beats_whole(split(key)[0])}
            items += [[d + "/", None] for d in sorted(whole)]
            deployment, message = columns([split(k) for k, _ in items], 2)
            rows = beat.call("beats", items, """
                SELECT deployment || '/' || coalesce(message_id, '')
                FROM turn_liveness.heartbeats(%s::text[], %s::text[], %s::int[])""",
                             (deployment, [m or None for m in message], [g for _, g in items]))
            for (key,) in rows or []:
                if key.endswith("/"):
                    for other in [k for k in list(live) if k.startswith(key)]:
                        live.pop(other, None)
                else:
                    live.pop(key, None)
            one = random.choice(turns)
            if not beats_whole(split(one[0])[0]):
                deployment, message = split(one[0])
                beat.call("beat", [list(one)], "SELECT turn_liveness.heartbeat(%s, ARRAY[%s], ARRAY[%s])",
                          (deployment, message, one[1]))
        time.sleep(0.7)


def then(seconds, action, key, generation):
    heapq.heappush(plan, (time.time() + seconds, action, key, generation))


def attach(keys):
    for deployment in sorted({split(k)[0] for k in keys}):
        at_home = number(deployment) % int(rest[0]) == int(name[1:].split(".")[0])
        if is_attached(deployment) and at_home and deployment not in attached:
            if work.call("attach", [[deployment]], "SELECT turn_liveness.attach_worker(%s)", (deployment,)):
                attached.add(deployment)


def start(keys):
    keys = sorted(set(keys))
    attach(keys)
    deployment, message = columns([split(k) for k in keys], 2)
    over = [kind_of(k) == "take_over" and k in live for k in keys]
    rows = work.call("start", [[k, o] for k, o in zip(keys, over)], """
        SELECT d || '/' || m, turn_liveness.start_turn(d, m, %s, o)
        FROM unnest(%s::text[], %s::text[], %s::bool[]) AS t(d, m, o)""", (name, deployment, message, over))
    for key, generation in rows or []:
        if generation is not None:
            begin(key, generation)


def begin(key, generation):
    kind = kind_of(key)
    live[key] = generation
    quick = random.uniform(0.1, 0.8)
    if kind == "silent" and generation == 1:
        live.pop(key, None)
    elif kind == "too_long":
        pass
    elif kind == "slow":
        then(random.uniform(4, 10), "answer", key, generation)
    elif kind == "update":
        then(quick, "update", key, generation)
        then(quick + 0.5, "update", key, generation)
        then(quick + 1.2, "answer", key, generation)
    elif kind == "suspend" and generation == 1:
        then(quick, "suspend", key, generation)
        if number("u" + key) % 3 == 1:
            then(quick + 1.5, "answer", key, generation)
    elif kind == "again" and generation == 1:
        then(random.uniform(0.5, 2), "answer", key, generation)
    elif kind == "provider":
        then(quick, "provider", key, generation)
        then(quick + 1, "clear" if number("c" + key) % 2 else "answer", key, generation)
    elif kind in ("rollback", "savepoint", "prepare", "dup", "pair"):
        then(quick, kind, key, generation)
    elif kind == "take_over" and generation == 1:
        then(quick, "start", key, generation)
        then(quick + 0.4, "answer", key, generation)
    else:
        then(quick, "answer", key, generation)


def answer(turns, fate="commit", gid=None, pair=False, token=None):
    """Commit the answers of (key, generation), one reply each, or one for each deployment."""
    global serial
    serial += 1
    token = token or "%s-%d" % (name, serial)
    groups = {}
    for key, generation in sorted(dict(sorted(turns)).items() if pair else turns):
        deployment, message = split(key)
        groups.setdefault((deployment, None if pair else (message, generation)), []).append((message, generation))
    items = [[["%s/%s" % (d, m) for m, _ in some], [g for _, g in some]] for (d, _), some in groups.items()]
    rows = work.call("commit", [token] + items, """
        SELECT d || '/' || m, turn_liveness.commit_terminal_reply(d, string_to_array(m, ','),
               jsonb_build_object('content', %s::text), string_to_array(g, ',')::int[])::text
        FROM unnest(%s::text[], %s::text[], %s::text[]) AS t(d, m, g)""", (
            token, [d for d, _ in groups], [",".join(m for m, _ in some) for some in groups.values()],
            [",".join(str(g) for _, g in some) for some in groups.values()]), fate=fate, gid=gid)
    if fate == "commit" and rows is not None:
        for key, _ in turns:
            live.pop(key, None)
    if fate == "prepare" and rows is not None:
        prepared.append((time.time() + random.uniform(0, 3), gid, random.random() < 0.5, turns))
    if rows is None:
        for key, generation in turns:
            then(0.3, "answer", key, generation)


def each(op, turns, sql, *more):
    turns = sorted(turns)
    deployment, message = columns([split(k) for k, _ in turns], 2)
    return work.call(op, [[k, g] + list(more) for k, g in turns],
                     "SELECT d || '/' || m, %s FROM unnest(%%s::text[], %%s::text[], %%s::int[]) AS t(d, m, g)"
                     % sql, (deployment, message, [g for _, g in turns]))


def act(action, turns):
    global serial
    if action == "answer":
        answer(turns)
    elif action in ("rollback", "savepoint"):
        answer(turns, fate=action)
        for key, generation in turns:
            then(random.uniform(0.1, 3), "answer", key, generation)
    elif action == "prepare":
        serial += 1
        answer(turns, fate="prepare", gid="%s-%d" % (name, serial))
    elif action == "dup":
        serial += 1
        for token in ["%s-%d" % (name, serial)] * 2 + [None]:
            answer(turns, token=token)
    elif action == "pair":
        answer(turns, pair=True)
    elif action == "start":
        start([k for k, _ in turns])
    elif action == "update":
        serial += 1
        each("update", turns, "turn_liveness.post_update(d, m, '{\"status\": \"%s-%d\"}', g)" % (name, serial),
             "%s-%d" % (name, serial))
    elif action == "suspend":
        wait = 4
        rows = each("suspend", turns, "turn_liveness.suspend_turn(d, m, '%d s', 'asks', g)" % wait, wait)
        if rows is None:
            for key, generation in turns:
                then(0.3, "suspend", key, generation)
        elif random.random() < 0.5:
            for key, _ in turns:
                live.pop(key, None)
    elif action in ("provider", "clear"):
        for key, generation in turns:
            sql = "mark_provider_failed(%s, 'PROVIDER', 'down')" if action == "provider" else "clear_provider_failed(%s)"
            work.call(action, [[split(key)[0]]], "SELECT turn_liveness." + sql, (split(key)[0],))
            if action == "clear":
                then(0.1, "answer", key, generation)


def resolve():
    global prepared
    due = [p for p in prepared if p[0] <= time.time() or client.stopping]
    prepared = [p for p in prepared if p not in due]
    for p in due:
        _, gid, commit, turns = p
        verb = "COMMIT" if commit else "ROLLBACK"
        # the run's janitor rolls back what could not be resolved
        if work.call("resolve", [gid, verb], "%s PREPARED '%s'" % (verb, gid)) is None or not commit:
            answer(turns)


def main():
    path = "%s/jobs.%s" % (directory, name.split(".")[0][1:])
    jobs = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    os.lseek(jobs, 0, os.SEEK_END)      # a new process knows nothing of what its predecessor had
    threading.Thread(target=beats, daemon=True).start()
    tail = b""
    while not client.stopping:
        began = time.time()
        data = tail + os.read(jobs, 1 << 20)
        lines, tail = data[:data.rfind(b"\n") + 1], data[data.rfind(b"\n") + 1:]
        if lines:
            start(lines.decode().split())
        due = {}
        while plan and plan[0][0] <= began:
            _, action, key, generation = heapq.heappop(plan)
            if key in live or action in ("answer", "start"):
                due.setdefault(action, set()).add((key, generation))
        for action, turns in due.items():
            act(action, turns)
        resolve()
        time.sleep(max(0, began + TICK - time.time()))
    resolve()
    for deployment in sorted(attached)[::2]:
        work.call("detach", [[deployment]], "SELECT turn_liveness.detach_worker(%s)", (deployment,))


main()
