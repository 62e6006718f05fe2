// Several servers: a conversation lives on one of them, which a hash of its name tells. No proxy
// between: arm and job are one transaction, workers attach, one that is down harms no other.
//
// The key is what stands before the first "/": conversation tenant-1/c7 and its deployments
// tenant-1/c7/agent and tenant-1/c7/tools are on one server. Server n has turn_liveness.node = n,
// so an id says which server gave it out.
'use strict';

const assert = require('node:assert');
const { createHash } = require('node:crypto');
const { Gateway } = require('../gateway.js');
const { Worker } = require('../worker.js');
const { createPool, transaction } = require('../database.js');
const { enqueue, pool, prefix, quiet, run, until, value } = require('../tests/common.js');

class Servers {
  // how to connect to each, in the order of their nodes; 2, 4, 8 ... up to 256
  constructor(addresses, { gateway, worker, report = console.error }) {
    assert(addresses.length <= 256 && Number.isInteger(Math.log2(addresses.length)));
    this.all = addresses.map((address) => {
      const own = createPool(address, report);
      return {
        pool: own,
        gateway: new Gateway({ pool: own, direct: address, report, ...gateway }),
        worker: new Worker({ pool: own, direct: address, report, ...worker }),
      };
    });
    this.all.forEach((server) => server.gateway.listen());      // one LISTEN for each server
  }

  // In SQL: get_byte(sha256(convert_to(split_part(name, '/', 1), 'UTF8')), 0) & (servers - 1)
  node(name) {
    return createHash('sha256').update(name.split('/', 1)[0]).digest()[0] & (this.all.length - 1);
  }

  of(name) {
    return this.all[this.node(name)];
  }

  // Readers look where the conversation is: the reply of a deployment elsewhere would be lost.
  dispatch(job, limits) {
    const { gateway, pool: own } = this.of(job.deployment);
    const conversation = job.routing?.conversationId ?? job.deployment;
    if (this.node(conversation) !== this.node(job.deployment)) {
      throw new Error(`deployment ${job.deployment} and conversation ${conversation} are not on one server`);
    }
    return transaction(own, (db) => gateway.dispatch(db, job, limits));
  }

  stream(conversation, cursor, write) {
    return this.of(conversation).gateway.stream(conversation, cursor, write);
  }

  work(job, work) {
    return this.of(job.deployment).worker.run(job, work);
  }

  async close() {
    await Promise.all(this.all.map(({ gateway, worker }) => Promise.all([gateway.close(), worker.close()])));
    await Promise.all(this.all.map((server) => server.pool.end()));
  }
}

// --- two databases stand for two servers

async function create(name, node) {
  await pool.query(`CREATE DATABASE "${name}"`);
  await pool.query(`ALTER DATABASE "${name}" SET turn_liveness.node = ${node}`);
  // the sessions below end, and the server does not
  await pool.query(`ALTER DATABASE "${name}" SET turn_liveness.reconnect_window = '1 h'`);
  const db = createPool({ database: name, max: 1 }, quiet);
  await db.query('CREATE EXTENSION turn_liveness');
  await db.query('CREATE TABLE my_jobs (payload jsonb)');
  await db.end();
  return { database: name };
}

async function main() {
  const addresses = [await create(`${prefix}-0`, 0), await create(`${prefix}-1`, 1)];
  const pushed = [];
  const servers = new Servers(addresses, {
    gateway: { enqueue, platforms: ['slack'], send: async (payload, signal, reply) => { pushed.push(reply); } },
    worker: { attach: true, every: 100 },
    report: quiet,
  });
  const names = Array.from({ length: 20 }, (_, i) => `tenant-${i}/c`);
  const job = (name, platform) => ({
    deployment: `${name}/agent`, messageId: 'm1', routing: { conversationId: name, platform },
  });
  const nodeOf = (id) => Number(BigInt(id) >> 44n);

  // a whole life on each; each id was given out once, and says where
  const seen = [];
  await Promise.all(names.map(async (name) => {
    assert.equal(await servers.dispatch(job(name, 'web')), 'armed');
    servers.stream(name, '0', (reply) => seen.push(reply));
    assert.equal(await servers.work(job(name, 'web'), async () => ({ content: name })), 'won');
  }));
  await until(() => seen.length === names.length);
  assert.equal(new Set(seen.map((reply) => reply.reply_id)).size, names.length);
  assert.deepEqual(new Set(seen.map((reply) => nodeOf(reply.reply_id))), new Set([0, 1]));
  for (const reply of seen) {
    assert.equal(nodeOf(reply.reply_id), servers.node(reply.conversation_id));
    assert.equal(reply.payload.content, reply.conversation_id);
    const sql = `SELECT get_byte(sha256(convert_to(split_part($1, '/', 1), 'UTF8')), 0) & 1`;
    assert.equal(await value(pool, sql, reply.conversation_id), servers.node(reply.conversation_id));
  }

  // pushes are claimed and acknowledged where they are
  for (const name of names) {
    const push = { ...job(`${name}/push`, 'slack'), messageId: 'm2' };    // no stream reads these
    await servers.dispatch(push);
    await servers.work(push, async () => ({ content: 'pushed' }));
  }
  await until(() => pushed.length === names.length);
  for (const { pool: own } of servers.all) {
    await until(async () => await value(own, `SELECT count(*) FROM turn_liveness.replies
      WHERE platform = 'slack' AND state <> 'delivered'`) === '0');
  }

  // owed and enqueued together, or neither
  const [name] = names;
  await assert.rejects(transaction(servers.of(name).pool, async (db) => {
    await servers.of(name).gateway.dispatch(db, { ...job(name, 'web'), messageId: 'm3' });
    throw new Error('my own rows were refused');
  }), /my own rows/);
  assert.equal(await value(servers.of(name).pool, 'SELECT count(*) FROM turn_liveness.turns'), '0');
  assert.throws(() => servers.dispatch({ ...job(name, 'web'), deployment: names.find((n) => servers.node(n) !== servers.node(name)) }),
    /not on one server/);

  // one server is down: a turn of the other goes on; once it is back, so does its own
  const other = names.find((n) => servers.node(n) !== servers.node(name));
  const down = { ...job(name, 'web'), messageId: 'm4' };
  await servers.dispatch(down, { silence: '1 h' });
  let answer;
  const lost = servers.work(down, () => new Promise((resolve) => { answer = resolve; }));
  await until(() => answer);
  const { database } = addresses[servers.node(name)];
  await pool.query(`ALTER DATABASE "${database}" ALLOW_CONNECTIONS false`);
  await until(async () => {
    await pool.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE datname = $1 AND backend_type = 'client backend'`, [database]);
    return servers.of(name).pool.query('SELECT').then(() => false, () => true);
  });
  const goes = { ...job(other, 'web'), messageId: 'm4' };
  assert.equal(await servers.dispatch(goes), 'armed');
  assert.equal(await servers.work(goes, async () => ({ content: 'goes on' })), 'won');
  await until(() => seen.some((reply) => reply.payload.content === 'goes on'));
  // a closed database refuses with 55000, a server that is down with what is worth repeating
  await pool.query(`ALTER DATABASE "${database}" ALLOW_CONNECTIONS true`);
  answer({ content: 'back' });
  assert.equal(await lost, 'won');
  await until(() => seen.some((reply) => reply.payload.content === 'back'));

  await servers.close();
  for (const address of addresses) await pool.query(`DROP DATABASE "${address.database}" WITH (FORCE)`);
}

run(main);
