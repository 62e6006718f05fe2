"""failover.py synchronous|asynchronous: kill -9 of the primary, three times, under load.

Each client's own log is compared with the database at the end. It speaks TAP.
"""
import importlib.util
import re
import shutil
import sys
import time
import traceback

missing = ([program for program in ("etcd", "patroni") if not shutil.which(program)]
           + [f"the module {m} for Python" for m in ("etcd", "psutil", "psycopg", "psycopg_pool")
              if not importlib.util.find_spec(m)])
if missing:
    print(f"1..0 # SKIP not here: {', '.join(missing)}")
    sys.exit(0)

import psycopg  # noqa: E402
import checks  # noqa: E402
from checks import Story, check  # noqa: E402
from cluster import PASSWORD, PATIENCE, Cluster, until  # noqa: E402
from load import CONVERSATIONS, Load  # noqa: E402

# Its Patroni dies with the server, as on a machine that dies; the standbys lag before.
BLOWS = ((False, True), (True, True), (True, False))


def note(text):
    print(f"# {text}", flush=True)


def blow(cluster, load, whole, lag):
    """Kills the leader in the middle of the work, and waits until all goes on."""
    leader = until(cluster.healthy, "a leader with two standbys")
    before = load.ended
    until(lambda: load.ended >= before + 2 * CONVERSATIONS and len(load.slow) >= 2, "turns in flight")
    cluster.caught_up(leader)
    times = {"cut": load.log.now()}
    if lag:
        leader.hold_senders()
        accepted, ended = load.accepted, load.ended
        if cluster.synchronous:
            until(lambda: leader.ask("SELECT count(*) >= 4 FROM pg_stat_activity WHERE wait_event = 'SyncRep'")[0][0],
                  "commits that wait for the standby")
        else:
            # more ids than the 32 that a sequence is ahead of its WAL
            load.hurry = True
            until(lambda: load.accepted >= accepted + CONVERSATIONS and load.ended >= ended + 150,
                  "something that can be lost")
            load.hurry = False
    leader.kill(whole)
    times["kill"] = load.log.now()
    load.blows += 1
    heir = until(cluster.leader, "another leader")
    times["back"] = load.log.now()
    check(heir is not leader, f"{'a machine' if whole else 'a server'} dies: another leads")
    before = load.ended
    until(lambda: load.ended >= before + 2 * CONVERSATIONS, "ends after the failover")
    if whole:
        leader.start()
    return times


def outage(story, times, end):
    """Seconds from the kill to the first arm, answer and end of a turn, and to the last call that failed."""
    during = [e for e in story.events if times["kill"] < e["t"] < end]

    def first(*what):
        return min((e["t"] for e in during if e["t"] > times["back"] and e["what"] in what), default=0) - times["kill"]
    last = max((e["t"] for e in during if e["what"] == "error"), default=0) - times["kill"]
    return (f"{times['back'] - times['kill']:.1f} s to another primary, {first('accepted'):.1f} s to an arm,"
            f" {first('verdict'):.1f} s to an answer, {first('heard'):.1f} s until a user heard something;"
            f" the last call failed after {last:.1f} s")


def run(cluster):
    cluster.start()
    leader = cluster.leader()
    with leader.connect() as db:
        db.execute(f"""
            CREATE EXTENSION turn_liveness;
            CREATE ROLE gateway LOGIN PASSWORD '{PASSWORD}';
            CREATE ROLE worker LOGIN PASSWORD '{PASSWORD}';
            SELECT turn_liveness.grant_gateway('gateway'), turn_liveness.grant_worker('worker');
            CREATE TABLE my_jobs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), payload jsonb);
            GRANT SELECT, INSERT ON my_jobs TO gateway;
            GRANT SELECT, DELETE ON my_jobs TO worker;
            CREATE FUNCTION tl_advance(interval) RETURNS void
                AS '$libdir/turn_liveness', 'turn_liveness_clock_advance' LANGUAGE C STRICT""")
    load = Load(cluster, repairs=not cluster.synchronous)
    blows = []
    try:
        for how in BLOWS:
            blows.append(blow(cluster, load, *how))
        until(cluster.healthy, "a leader with two standbys, in the end")
        load.last_blow.set()
        load.finish()
        replies = settle(cluster, load)
        load.close()
    except Exception:
        traceback.print_exc()
        check(False, "all came to its end")
        replies = read(until(cluster.leader, "a leader", anyway=True))
    story = Story(load.log.read(), replies)
    for times, after in zip(blows, [*(b["cut"] for b in blows[1:]), load.log.now()]):
        note(outage(story, times, after))
    if cluster.synchronous:
        checks.synchronous(story)
    else:
        checks.asynchronous(story, blows)
    for node in cluster.nodes:
        log = (node.dir / "patroni.log").read_text(errors="replace")
        check(not re.search("PANIC|TRAP:|signal 6|signal 11", log), f"nothing crashed on {node.name}")


def settle(cluster, load):
    """The replies, when nothing is owed and every stream has heard what it can."""
    leader = cluster.leader()
    if not cluster.synchronous:
        # turns that ended in what was lost: their users have gone, and no worker is on them
        leader.ask("SELECT tl_advance('1 h')")
    until(lambda: leader.ask("SELECT count(*) = 0 FROM turn_liveness.turns")[0][0], "nothing that is owed")
    replies = read(leader)
    deadline = time.monotonic() + PATIENCE / 10
    while Story(load.log.read(), replies).deaf() and time.monotonic() < deadline:
        time.sleep(0.2)
    return replies


def read(leader):
    with leader.connect() as db:
        db.row_factory = psycopg.rows.namedtuple_row
        return db.execute("SELECT reply_id, message_ids, outcome, payload FROM turn_liveness.replies").fetchall()


cluster = Cluster({"synchronous": True, "asynchronous": False}[sys.argv[1]])
try:
    run(cluster)
except BaseException:
    traceback.print_exc()
    checks.failed += 1
finally:
    cluster.stop()
print(f"1..{checks.passed + checks.failed}", flush=True)
sys.exit(checks.failed > 0)
