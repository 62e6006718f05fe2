"""Three nodes with Debian's Patroni, and etcd, all on the loopback interface: start, kill, ask.

TL_TMP is the directory for their files; TL_CONF has the lines of postgresql.conf that find the
extension; TL_PG_CONFIG names the server.
"""
import json
import os
import pathlib
import random
import re
import secrets
import signal
import socket
import subprocess
import time
import urllib.request

import psutil
import psycopg

PATIENCE = int(os.environ.get("PG_TEST_TIMEOUT_DEFAULT", 600))      # seconds for a condition
TTL, LOOP_WAIT = 20, 5                  # Patroni's, in seconds
PASSWORD = secrets.token_hex(16)
trouble = []                            # of threads of the test


def until(condition, name, anyway=False):
    """Until the condition gives something, or a thread of the test has failed."""
    end = time.monotonic() + PATIENCE
    while not (result := condition()):
        if trouble and not anyway:
            raise RuntimeError(trouble[0])
        if time.monotonic() > end:
            raise TimeoutError(f"never came: {name}")
        time.sleep(0.05)
    return result


def free_ports(count):
    """Below those that the system gives to connections that go out."""
    ports = set()
    while len(ports) < count:
        port = random.randrange(10200, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                ports.add(port)
            except OSError:
                pass
    return list(ports)


class Node:
    def __init__(self, cluster, name, port, api):
        self.cluster, self.name, self.port, self.api = cluster, name, port, api
        self.dir = cluster.dir / name
        self.dir.mkdir(mode=0o700)
        self.data = self.dir / "data"
        self.config = self.dir / "patroni.yml"
        self.patroni = None

    def start(self):
        """Patroni; it starts the server, rewinds it or copies it as it sees fit."""
        with open(self.dir / "patroni.log", "a") as log:
            self.patroni = subprocess.Popen(["patroni", self.config], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)

    def postmaster(self):
        try:
            return psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        except (FileNotFoundError, IndexError, psutil.NoSuchProcess):
            return None

    def kill(self, whole):
        """kill -9 of the server, and of its Patroni where the whole machine dies. The postmaster
        stands still first: no child lives on to see it dead, when it would no longer wait for a
        standby, as on a machine that loses its power."""
        if whole:
            self.patroni.send_signal(signal.SIGSTOP)
        postmaster = self.postmaster()
        postmaster.suspend()
        for child in postmaster.children():
            child.kill()
        postmaster.kill()
        if whole:
            self.patroni.kill()
            self.patroni.wait()
            self.patroni = None

    def hold_senders(self):
        """Nothing more goes to the standbys."""
        for pid, in self.ask("SELECT pid FROM pg_stat_replication"):
            os.kill(pid, signal.SIGSTOP)

    def connect(self):
        return psycopg.connect(host="127.0.0.1", port=self.port, dbname="postgres", user="postgres",
                               password=PASSWORD, autocommit=True, connect_timeout=10)

    def ask(self, sql, *args):
        with self.connect() as db:
            return db.execute(sql, args or None).fetchall()


class Cluster:
    def __init__(self, synchronous):
        self.synchronous = synchronous
        self.dir = pathlib.Path(os.environ["TL_TMP"]) / ("synchronous" if synchronous else "asynchronous")
        self.dir.mkdir(mode=0o700)
        ports = free_ports(8)
        self.etcd_port, self.peer_port = ports[6:]
        self.etcd = None
        self.nodes = [Node(self, f"node{i + 1}", ports[2 * i], ports[2 * i + 1]) for i in range(3)]

    def conninfo(self, role):
        """All nodes; libpq takes the one that can be written to."""
        return (f"host={','.join('127.0.0.1' for _ in self.nodes)} port={','.join(str(n.port) for n in self.nodes)}"
                f" dbname=postgres user={role} password={PASSWORD} target_session_attrs=read-write")

    def start(self):
        url, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.peer_port}"
        with open(self.dir / "etcd.log", "w") as log:
            self.etcd = subprocess.Popen(
                ["etcd", "--name", "etcd", "--data-dir", self.dir / "etcd", "--listen-client-urls", url,
                 "--advertise-client-urls", url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                 "--initial-cluster", f"etcd={peer}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for node in self.nodes:
            node.config.write_text(json.dumps(self.configuration(node)))
            node.start()
        until(self.healthy, "a leader with two standbys")

    def configuration(self, node):
        # the lines that find the extension
        parameters = dict(re.findall(r"^(\w+) *= *'?(.*?)'?$", pathlib.Path(os.environ["TL_CONF"]).read_text(), re.M))
        user = {"username": "postgres", "password": PASSWORD}
        return {
            "scope": "turn_liveness", "name": node.name,
            "etcd3": {"host": f"127.0.0.1:{self.etcd_port}"},
            "restapi": {"listen": f"127.0.0.1:{node.api}", "connect_address": f"127.0.0.1:{node.api}"},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL, "loop_wait": LOOP_WAIT, "retry_timeout": 5, "primary_start_timeout": 0,
                    # asynchronous: a standby that lags may lead, however much it has missed
                    "maximum_lag_on_failover": 2**30,
                    "synchronous_mode": self.synchronous, "synchronous_mode_strict": self.synchronous,
                    "postgresql": {
                        "use_pg_rewind": True,
                        # only processes die here, so nothing needs the disk
                        "parameters": {**parameters, "fsync": "off", "log_line_prefix": "%m [%p] %b %q%a "},
                    },
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, {"auth": "scram-sha-256"}, "no-sync"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{node.port}", "connect_address": f"127.0.0.1:{node.port}",
                "data_dir": str(node.data), "pgpass": str(node.dir / "pgpass"),
                "bin_dir": subprocess.check_output([os.environ["TL_PG_CONFIG"], "--bindir"], text=True).strip(),
                "authentication": {"superuser": user, "replication": user, "rewind": user},
                "parameters": {"unix_socket_directories": str(node.dir)},
                "pg_hba": ["host all,replication all 127.0.0.1/32 scram-sha-256"],
            },
        }

    def leader(self):
        """The node that can be written to."""
        for node in self.nodes:
            try:
                if node.ask("SELECT NOT pg_is_in_recovery()")[0][0]:
                    return node
            except psycopg.OperationalError:
                pass
        return None

    def healthy(self):
        """The leader, if both standbys stream, and Patroni has made one of them the synchronous one."""
        leader = self.leader()
        if not leader:
            return None
        try:
            standbys = leader.ask("SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'"
                                  " AND application_name LIKE 'node%'")
            members = json.load(urllib.request.urlopen(f"http://127.0.0.1:{leader.api}/cluster", timeout=10))["members"]
        except (psycopg.OperationalError, OSError, ValueError):
            return None
        roles = sorted(member["role"] for member in members if member["state"] == "running")
        if self.synchronous:
            fine = [s for s, in standbys].count("sync") == 1 and roles == ["leader", "replica", "sync_standby"]
        else:
            fine = roles == ["leader", "replica", "replica"]
        return leader if fine and len(standbys) == 2 else None

    def caught_up(self, leader):
        """Both standbys have all that the leader has written before the call."""
        end = leader.ask("SELECT pg_current_wal_flush_lsn()")[0][0]
        until(lambda: leader.ask("SELECT count(*) = 2 FROM pg_stat_replication WHERE flush_lsn >= %s::pg_lsn"
                                 " AND application_name LIKE 'node%%'", end)[0][0], "standbys that have caught up")

    def stop(self):
        for node in self.nodes:
            if node.patroni:
                node.patroni.kill()
                node.patroni.wait()
            if postmaster := node.postmaster():
                postmaster.send_signal(signal.SIGQUIT)
        if self.etcd:
            self.etcd.kill()
            self.etcd.wait()
