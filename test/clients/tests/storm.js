// storm.js restart|terminate: two gateways and two workers while the server restarts, or every
// connection is ended, again and again. Each client sees exactly one answer to each message.
//
// RESTART is the command that restarts the server; the mode is added to it.
'use strict';

const assert = require('node:assert');
const { execSync } = require('node:child_process');
const { Gateway } = require('../gateway.js');
const { Worker } = require('../worker.js');
const { createPool, repeat, transaction } = require('../database.js');
const { pool, prefix, quiet, run, sleep, turnOf, until } = require('./common.js');

const CONVERSATIONS = 20;
const [rounds, hit] = {
  restart: [3, (round) => execSync(`${process.env.RESTART} -m ${round % 2 ? 'fast' : 'immediate'}`)],
  terminate: [10, () => pool.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND datname = current_database() AND pid <> pg_backend_pid()`)],
}[process.argv[2]];

let hits = 0;
let lastBlow = false;
let over = false;
let inFlight = 0;

// A queue that delivers at least once: a job stays until its turn has ended.
const enqueue = (db, job) => db.query('INSERT INTO my_jobs VALUES ($1)', [job]);
const peek = (ofPool) => repeat(() => ofPool.query(`SELECT ctid::text, payload FROM my_jobs
  WHERE starts_with(payload->>'deployment', $1) ORDER BY random() LIMIT 1`, [prefix])).then(({ rows: [job] }) => job);
const done = (ofPool, job) => repeat(() => ofPool.query('DELETE FROM my_jobs WHERE payload = $1', [job]));

// Half of the answers take until the next blow has fallen.
async function answer(turn) {
  const begun = hits;
  inFlight++;
  if (turn.job.slow) await until(() => hits > begun || lastBlow);
  inFlight--;
  return { content: turn.messageId };
}

async function work(worker) {
  for (; !over; await sleep(10)) {
    const job = await peek(worker.pool);
    if (!job) continue;
    const result = await worker.run(job.payload, answer);
    const { deployment, messageId } = job.payload;
    if (result !== null || (await repeat(() => turnOf(deployment, messageId))).ended_at) await done(worker.pool, job.payload);
  }
}

run(async () => {
  const make = () => createPool({ max: 6 }, quiet);
  const seen = new Map();               // of each turn, what its client got
  const pushed = new Map();
  const add = (map, key, thing) => map.set(key, [...(map.get(key) ?? []), thing]);
  const gateways = [1, 2].map((n) => new Gateway({
    name: `${prefix}-${n}`, pool: make(), enqueue, report: quiet, platforms: [prefix],
    send: async (payload) => add(pushed, payload.content, payload) }));
  const workers = [1, 2].map((n) => new Worker({ name: `${prefix}-${n}`, pool: make(), every: 100, report: quiet }));
  const working = workers.flatMap((worker) => Array.from({ length: CONVERSATIONS }, () => work(worker)));

  gateways.forEach((gateway) => gateway.listen());
  for (let c = 0; c < CONVERSATIONS; c++) {
    gateways[c % 2].stream(`${prefix}/${c}`, '0', (reply) => add(seen, reply.message_ids[0], reply.payload.errorCode ?? 'answer'));
  }

  // A new message in each conversation when the last one has its answer; each fifth is pushed.
  let n = 0;
  const dispatched = [];
  const feed = async (c) => {
    while (!lastBlow) {
      const messageId = `${c}-${n++}`;
      const deployment = `${prefix}/${c}`;
      const routing = n % 5 === 0 ? { conversationId: `${deployment}/pushed`, platform: prefix } : {};
      dispatched.push(messageId);
      const gateway = gateways[c % 2];
      await transaction(gateway.pool, (db) => gateway.dispatch(db, { deployment, messageId, routing, slow: n % 2 === 0 }));
      await until(() => seen.has(messageId) || pushed.has(messageId), `the end of ${messageId}`);
    }
  };
  const feeding = Array.from({ length: CONVERSATIONS }, (_, c) => feed(c));

  for (let round = 0; round < rounds; round++) {
    const before = seen.size + pushed.size;
    await until(() => inFlight >= CONVERSATIONS / 2);
    await repeat(() => hit(round));
    hits++;
    await until(() => seen.size + pushed.size >= before + CONVERSATIONS / 2, `answers after blow ${hits}`);
  }
  lastBlow = true;
  await Promise.all(feeding);
  over = true;
  await Promise.all(working);

  const ends = dispatched.map((id) => (pushed.has(id) ? 'pushed' : seen.get(id).join()));
  assert.deepEqual([...new Set(ends)].sort(), ['answer', 'pushed']);
  console.log(`${dispatched.length} turns, ${hits} blows`);
  await Promise.all([...workers, ...gateways].map((part) => part.close()));
  await Promise.all([...workers, ...gateways].map((part) => part.pool.end()));
});
