// The life of a few turns, by gateway.js and worker.js, each call in its place.
'use strict';

const assert = require('node:assert');
const { Gateway } = require('../gateway.js');
const { Worker } = require('../worker.js');
const { transaction } = require('../database.js');
const { dequeue, enqueue, pool, prefix, run, turnOf, until, value } = require('./common.js');

// A pool that runs the statement, and loses its answer once, with the connection.
function losing(statement) {
  let lost = false;
  const query = (db) => async (sql, args) => {
    const result = await db.query(sql, args);
    if (!lost && sql.includes(statement)) {
      lost = true;
      throw new Error('Connection terminated unexpectedly');
    }
    return result;
  };
  return {
    query: query(pool),
    connect: () => pool.connect().then((db) => ({ query: query(db), release: () => db.release(true) })),
  };
}

run(async () => {
  const conversation = `${prefix}/c1`;
  const platform = prefix;
  const turn = (messageId) => ({
    deployment: conversation, messageId, routing: { conversationId: conversation, userId: 'u1', platform: 'web' } });
  const sent = [];
  const seen = [];
  const gateway = new Gateway({ pool, enqueue, platforms: [platform], send: async (payload) => sent.push(payload.content) });
  const worker = new Worker({ pool, every: 50, attach: true });
  const dispatch = (job, options) => transaction(pool, (db) => gateway.dispatch(db, job, options));
  const terminal = (n) => until(() => seen.length >= n && seen[n - 1], `reply ${n}`);

  gateway.listen();
  const leave = gateway.stream(conversation, '0', (reply) => seen.push(reply));

  // --- a message is answered, without the characters that jsonb refuses
  assert.equal(await dispatch(turn('m1')), 'armed');
  assert.equal(await worker.run(await dequeue(), async (held) => {
    for (let i = 0; i < 12; i++) {        // which a pooler gives to several servers
      assert.equal(await value(pool, 'SELECT turn_liveness.has_live_turn($1, $2)', conversation, 'm1'), true);
    }
    await until(() => worker.attached.has(conversation));

    // the beats' session ends: the next one is attached, too
    const { processID } = worker.beats.db;
    await pool.query('SELECT pg_terminate_backend($1)', [processID]);
    await until(() => worker.beats.db.processID !== processID && worker.attached.has(conversation));
    assert.equal(await value(worker.beats.db, 'SELECT turn_liveness.detach_worker($1)', conversation), true);
    worker.attached.delete(conversation);
    await until(() => worker.attached.has(conversation));
    assert.equal(held.signal.aborted, false);
    return { content: '4\x002', text: 'half \ud800' };
  }), 'won');
  assert.equal((await terminal(1)).payload.content, '42');
  assert.equal(seen[0].payload.userId, 'u1');
  await until(() => worker.attached.size === 0);
  assert.equal(await value(worker.beats.db, 'SELECT turn_liveness.detach_worker($1)', conversation), false);

  // --- the same message again, owed or ended, enqueues nothing
  assert.equal(await dispatch(turn('m1')), 'answered');
  assert.equal(await dispatch(turn('m2')), 'armed');
  assert.equal(await dispatch(turn('m2')), 'pending');
  assert.equal((await dequeue()).messageId, 'm2');
  assert.equal(await dequeue(), undefined);

  // --- unless it is to go to a worker again
  assert.equal(await dispatch(turn('m1'), { again: true }), 'answered');
  assert.equal(await dequeue(), undefined);
  assert.equal(await dispatch(turn('m2'), { again: true }), 'pending');
  const job = await dequeue();
  assert.equal(job.messageId, 'm2');

  // --- the user stops it: the client hears it, and the worker with its next beat
  assert.equal(await worker.run(job, async (held) => {
    assert.equal(held.generation, 2);
    assert.equal(await gateway.stop(turn('m2')), 'won');
    await until(() => held.signal.aborted);
    held.signal.throwIfAborted();
  }), 'stopped');
  assert.equal((await terminal(2)).payload.errorCode, 'CANCELLED');

  // --- a stop that overtakes its arm
  assert.equal(await gateway.stop(turn('m3')), 'won');
  assert.equal(await dispatch(turn('m3')), 'answered');
  assert.equal(await dequeue(), undefined);
  assert.equal((await terminal(3)).payload.errorCode, 'CANCELLED');

  // --- an agent that throws
  await dispatch(turn('m4'));
  assert.equal(await worker.run(await dequeue(), () => { throw new Error('the model is away'); }), 'won');
  assert.equal((await terminal(4)).payload.errorCode, 'AGENT_FAILED');

  // --- pushed: to the platform, once; a message that it refuses comes again
  gateway.send = async (payload) => {
    sent.push(payload.content);
    if (sent.length === 1) throw new Error('429');
  };
  await dispatch({ deployment: `${prefix}/c2`, messageId: 'm5', routing: { platform } });
  assert.equal(await worker.run(await dequeue(), async () => ({ content: '43' })), 'won');
  await until(() => sent.length === 2);
  await until(async () => (await value(pool, 'SELECT state FROM turn_liveness.replies WHERE platform = $1', platform)) === 'delivered');
  assert.deepEqual(sent, ['43', '43']);

  // --- an answer that is lost with its connection: once is enough
  const lost = { deployment: `${prefix}/c3`, messageId: 'm7' };
  gateway.pool = losing('COMMIT');
  assert.equal(await transaction(gateway.pool, (db) => gateway.dispatch(db, lost)), 'pending');
  gateway.pool = pool;
  worker.pool = losing('start_turn');
  assert.equal(await worker.run(await dequeue(), async ({ generation }) => {
    worker.pool = losing('commit_terminal_reply');
    return { generation };
  }), 'won');
  worker.pool = pool;
  assert.equal(await dequeue(), undefined);
  assert.equal((await turnOf(lost.deployment, 'm7')).payload.generation, 1);
  assert.equal(await value(pool, 'SELECT count(*)::int FROM turn_liveness.late_replies WHERE deployment = $1',
    lost.deployment), 0);

  // --- an error in the caller's transaction: neither owed nor enqueued
  await assert.rejects(transaction(pool, async (db) => {
    await gateway.dispatch(db, turn('m6'));
    await db.query('SELECT 1 / 0').catch(() => {});
  }), /rolled back/);
  assert.equal(await dequeue(), undefined);
  assert.equal(await dispatch(turn('m6')), 'armed');

  // --- the first error is the one that is told, also where ROLLBACK has one
  await assert.rejects(transaction(pool, async (db) => {
    await db.query('SELECT pg_terminate_backend(pg_backend_pid())').catch(() => {});
    throw new Error('the first');
  }), /the first/);

  // --- notifications that are forged, and none at all: the next look finds the reply
  for (const payload of ['null', '[', '{"conversations": 5}', '{"lapsed": {}}']) {
    await pool.query('SELECT pg_notify($1, $2)', ['turn_liveness', payload]);
  }
  const deaf = [];
  const late = new Gateway({ pool, enqueue, channel: 'other', every: 50 });
  late.listen();
  late.stream(conversation, seen[3].reply_id, (reply) => deaf.push(reply.message_ids[0]));
  await gateway.stop(turn('m6'));
  await until(() => deaf.length > 0);
  assert.deepEqual(deaf, ['m6']);
  await late.close();

  // --- nothing more came than was due
  await terminal(5);
  assert.deepEqual(seen.map((reply) => reply.message_ids[0]), ['m1', 'm2', 'm3', 'm4', 'm6']);
  leave();

  // --- a client that comes later gets them at once, with no notification
  await gateway.listener.close();
  const again = [];
  const part = gateway.stream(conversation, seen[1].reply_id, (reply) => again.push(reply.message_ids[0]));
  await until(() => again.length === 3);
  assert.deepEqual(again, ['m3', 'm4', 'm6']);
  part();
  assert.equal(gateway.streams.size, 0);
  await worker.close();
  await gateway.close();
});
