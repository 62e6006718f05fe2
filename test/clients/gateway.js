#!/usr/bin/env node
// The whole gateway side in Node (pg), and a worker, in one process.
//
// PGHOST and so on name the server. POOL_HOST and POOL_PORT, if given, name a
// pooler in transaction mode before it: everything goes through that but LISTEN
// and attach_worker, which need a session. Wants a table my_jobs (payload jsonb).
'use strict';

const assert = require('node:assert');
const { once, EventEmitter } = require('node:events');
const { Client, Pool } = require('pg');

const conversation = `tenant-1/node-${process.pid}`;

// A query with a "name" is prepared in its connection; a pooler in transaction mode may give
// the next one to another server, so give none a name. pg prepares nothing by itself.
const pool = new Pool({ host: process.env.POOL_HOST, port: process.env.POOL_PORT });
pool.on('error', console.error);       // of an idle connection: the pool makes another
pool.on('connect', (client) => client.on('error', console.error));      // of one that is in use
const session = new Client();
const events = new EventEmitter();

const value = async (db, sql, ...args) =>
  Object.values((await db.query(sql, args)).rows[0])[0];

const routing = (platform) => ({ conversationId: conversation, platform, userId: 'u1' });

// --- gateway: a message has come. Owed and enqueued together, or neither.
// answered: it has ended already, by a stop that was faster.
async function dispatch(messageId, platform) {
  const db = await pool.connect();
  let lost;
  try {
    await db.query('BEGIN');
    const armed = await value(db, 'SELECT turn_liveness.arm_turn($1, $2, $3)',
      conversation, messageId, routing(platform));
    if (armed !== 'answered') await db.query('INSERT INTO my_jobs VALUES ($1)', [{ messageId }]);
    await db.query('COMMIT');
    return armed;
  } catch (error) {
    await db.query('ROLLBACK').catch((e) => { lost = e; });
    throw error;
  } finally {
    db.release(lost);
  }
}

// --- gateway: the user presses stop, perhaps before the arm is committed
const stop = (messageId, platform) =>
  value(pool, "SELECT turn_liveness.reject_turn($1, $2, $3, 'Stopped.', 'CANCELLED')",
    conversation, messageId, routing(platform));

// --- worker: every few seconds, a beat that names its turns; 0 means give up
const beat = (ids) =>
  value(pool, 'SELECT turn_liveness.heartbeat($1, $2)', conversation, ids);

// --- worker: the answer: won, lost or unknown
const commit = (ids, reply) =>
  value(pool, 'SELECT turn_liveness.commit_terminal_reply($1, $2, $3)', conversation, ids, reply);

// --- gateway: LISTEN first, then read; a notification says where to look again
async function listen() {
  const listener = new Client();
  await listener.connect();
  listener.on('notification', ({ payload }) => {
    const { conversations = [conversation] } = JSON.parse(payload);     // {} means look
    if (conversations.includes(conversation)) events.emit('look');
  });
  await listener.query('LISTEN turn_liveness');
  return listener;
}

// --- gateway: what a stream has not seen yet; cursor is its Last-Event-ID.
// An id is a bigint: pg gives it as a string, and takes it back as one.
async function read(cursor) {
  for (;;) {
    const look = once(events, 'look', { signal: AbortSignal.timeout(10000) });
    look.catch(() => {});
    const { rows } = await pool.query(
      'SELECT reply_id, payload FROM turn_liveness.read_replies($1, $2)', [[conversation], [cursor]]);
    if (rows.length > 0) return rows;
    await look;
  }
}

const ack = (ids) => value(pool, "SELECT turn_liveness.ack_replies('gateway-js', $1)", ids);

// --- gateway: push what no other replica has claimed, and acknowledge it. Claim no more
// than can be sent within claim_timeout (30 s): what is late goes to another replica, too.
async function push(send) {
  const { rows } = await pool.query(`SELECT reply_id, payload
    FROM turn_liveness.claim_replies('gateway-js', platforms => '{slack}', max_replies => 10)`);
  for (const { reply_id: id, payload } of rows) {
    try {
      await send(payload);
      await ack([id]);
    } catch (error) {
      await value(pool, "SELECT turn_liveness.release_replies('gateway-js', $1, error => $2)", [id], error.message);
    }
  }
}

async function main() {
  await session.connect();
  const listener = await listen();
  assert.equal(await dispatch('m1', 'web'), 'armed');

  // --- worker: its session's end would be its death, so it must be a real one
  assert.equal(await value(session, 'SELECT turn_liveness.attach_worker($1)', conversation), session.processID);

  for (let i = 0; i < 12; i++) assert.equal(await beat(['m1']), 1);
  assert.equal(await commit(['m1'], { content: '42' }), 'won');
  assert.equal(await commit(['m1'], { content: '42' }), 'won', 'the same again');
  assert.equal(await commit(['m1'], { content: '43' }), 'lost', 'another');

  // --- gateway: to the stream
  const [reply, ...more] = await read('0');
  assert.equal(reply.payload.content, '42');
  assert.equal(more.length, 0);
  assert.equal(await ack([reply.reply_id]), 1);

  // --- stopped by the user: the client hears it, and the worker with its next beat
  await dispatch('m2', 'web');
  assert.equal(await stop('m2', 'web'), 'won');
  assert.equal(await beat(['m2']), 0);
  assert.deepEqual((await read(reply.reply_id)).map((r) => r.payload.errorCode), ['CANCELLED']);

  // --- a stop that overtakes its arm
  assert.equal(await stop('m4', 'web'), 'won');
  assert.equal(await dispatch('m4', 'web'), 'answered');

  // --- pushed: one replica alone sends
  const sent = [];
  const send = (payload) => payload.conversationId === conversation && sent.push(payload.content);
  await dispatch('m3', 'slack');
  await commit(['m3'], { content: '42' });
  await Promise.all([push(send), push(send)]);
  assert.deepEqual(sent, ['42']);

  assert.equal(await value(session, 'SELECT turn_liveness.detach_worker($1)', conversation), true);
  await Promise.all([session.end(), listener.end(), pool.end()]);
}

main().catch((error) => { console.error(error); process.exit(1); });
