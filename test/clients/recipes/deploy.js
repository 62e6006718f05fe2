// Rolling deploy: the old process gives up its turns, whose jobs go back into the queue; the new one
// takes them over. No client waits for a deadline, and a late answer of the old one is stale.
'use strict';

const assert = require('node:assert');
const { Gateway } = require('../gateway.js');
const { Worker } = require('../worker.js');
const { transaction } = require('../database.js');
const { dequeue, enqueue, pool, prefix, run, until, value } = require('../tests/common.js');

run(async () => {
  const seen = [];
  const gateway = new Gateway({ pool, enqueue });
  const job = { deployment: `${prefix}/c`, messageId: 'm1', routing: {} };
  gateway.listen();
  gateway.stream(job.deployment, '0', (reply) => seen.push(reply.payload.content));
  await transaction(pool, (db) => gateway.dispatch(db, job));

  const old = new Worker({ pool, name: 'old', attach: true, every: 50 });
  let finish;
  const working = old.run(await dequeue(), () => new Promise((resolve) => { finish = resolve; }));
  await until(() => old.attached.has(job.deployment));

  // SIGTERM: process.once('SIGTERM', ...)
  const jobs = await old.close();
  await transaction(pool, (db) => Promise.all(jobs.map((left) => enqueue(db, left))));

  const next = new Worker({ pool, name: 'new', attach: true, every: 50 });
  assert.equal(await next.run(await dequeue(), async (turn) => {
    assert.equal(turn.generation, 2);
    finish({ content: 'too late' });
    assert.equal(await working, 'stale');
    assert.equal(turn.signal.aborted, false);
    return { content: 'by the new one' };
  }), 'won');
  await until(() => seen.length === 1);
  assert.deepEqual(seen, ['by the new one']);
  assert.equal(await value(pool, "SELECT payload->>'content' FROM turn_liveness.late_replies WHERE deployment = $1",
    job.deployment), 'too late');
  await next.close();
  await gateway.close();
});
