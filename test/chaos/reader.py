"""What delivers: a listener that reads streams by cursors, or a pusher that claims."""
import glob
import json
import random
import select
import time

from common import Session, arguments
from life import DEPLOYMENTS, is_pushed, number

name, directory, client, rest = arguments()
short = name.split(".")[0]
MAX = 1000


def seen_before(cursors):
    """What the clients of a listener that died have: their last ids are in its logs."""
    for path in glob.glob("%s/%s.*.log" % (directory, short)):
        for line in open(path):
            if line.startswith('{"n"') and '"r":[[' in line and line.endswith("\n"):
                for row in json.loads(line)["r"]:
                    if len(row) == 3 and row[1] in cursors:
                        cursors[row[1]] = max(cursors[row[1]], row[0])


def listen(gateways, part, parts):
    names = ["%sd%d" % (g, i) for g in gateways for i in range(DEPLOYMENTS)]
    cursors = {n: 0 for n in names if number(n) % parts == part}
    seen_before(cursors)
    looks = set(cursors)

    def connected(session):
        session.db.cursor().execute("LISTEN turn_liveness")
        looks.update(cursors)

    session = Session(client, on_connect=connected)
    next_look = 0
    last = False
    while True:
        stopping = client.stopping      # what ended before is read once more
        if stopping or time.time() >= next_look:
            looks.update(cursors)
            next_look = time.time() + 10
        if looks:
            some = sorted(looks)
            rows = session.call("read", [], """
                SELECT reply_id, conversation_id, outcome
                FROM turn_liveness.read_replies(%s::text[], %s::bigint[], %s)""",
                                (some, [cursors[c] for c in some], MAX))
            if rows is not None:
                for reply_id, conversation, _ in rows:
                    cursors[conversation] = max(cursors[conversation], reply_id)
                if len(rows) < MAX:
                    looks.clear()
                ids = [i for i, conversation, _ in rows if not is_pushed(conversation)]
                if ids:
                    session.call("ack", ids, "SELECT turn_liveness.ack_replies(%s, %s::bigint[])", (short, ids))
                if stopping and not looks:
                    if last:
                        return
                    last = True
        session.connect()
        try:
            if not looks:
                select.select([session.db], [], [], 0.5)
            session.db.poll()
            while session.db.notifies:
                payload = json.loads(session.db.notifies.pop().payload)
                looks.update(c for c in payload.get("conversations", ()) if c in cursors)
                if not payload:
                    looks.update(cursors)
        except Exception:
            session.drop()
        time.sleep(0.02)


def push():
    session = Session(client, lock_timeout=3000)
    empty = 0
    while not client.stopping or empty < 3:
        fate = random.choice(["commit"] * 14 + ["rollback"])
        rows = session.call("claim", [], """
            SELECT reply_id, attempt FROM turn_liveness.claim_replies(%s, platforms => '{push}', max_replies => 60)""",
                            (short,), fate=fate)
        empty = empty + 1 if rows == [] else 0
        if rows and fate == "commit":
            ids = [r[0] for r in rows]
            sure = client.stopping      # at the end all is delivered
            ack = [i for i in ids if sure or random.random() < 0.9]
            release = [i for i in ids if i not in ack and random.random() < 0.6]
            if ack:
                session.call("ack", ack, "SELECT turn_liveness.ack_replies(%s, %s::bigint[])", (short, ack))
            if release:
                session.call("release", release, """
                    SELECT turn_liveness.release_replies(%s, %s::bigint[], '200 ms', 'refused')""", (short, release))
        time.sleep(0.1)


if rest[0] == "push":
    push()
else:
    listen(rest[1].split(","), int(rest[2]), int(rest[3]))
