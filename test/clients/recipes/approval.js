// Approval: the turn asks the user, and waits for days without beats, worker or session; the answer
// brings it back into the queue. Without an answer the turn ends with WAIT_EXPIRED.
'use strict';

const assert = require('node:assert');
const { Gateway } = require('../gateway.js');
const { Worker } = require('../worker.js');
const { transaction } = require('../database.js');
const { advance, dequeue, enqueue, pool, prefix, run, until } = require('../tests/common.js');

// The agent: asks in one transaction, so that the question is there exactly when the turn waits.
async function agent(turn) {
  if (turn.job.approved === undefined) {
    await transaction(pool, async (db) => {
      await turn.update({ question: 'Delete the file?' }, db);
      await turn.suspend('2 days', 'approval', db);
    });
    return undefined;
  }
  return { content: turn.job.approved ? 'deleted' : 'kept' };
}

run(async () => {
  const seen = [];
  const gateway = new Gateway({ pool, enqueue });
  const worker = new Worker({ pool });
  const job = { deployment: `${prefix}/c`, messageId: 'm1', routing: {} };
  const next = async () => worker.run(await until(dequeue), agent);
  gateway.listen();
  gateway.stream(job.deployment, '0', (reply) => seen.push(reply.payload));

  await transaction(pool, (db) => gateway.dispatch(db, job));
  assert.equal(await next(), 'suspended');
  await until(() => seen.length === 1);
  assert.equal(seen[0].question, 'Delete the file?');
  await advance('25 hours');

  // the user's click, which comes twice
  const click = () => transaction(pool, (db) => gateway.resume(db, { ...job, approved: true }));
  assert.equal(await click(), true);
  assert.equal(await click(), false);
  assert.equal(await next(), 'won');
  await until(() => seen.length === 2);
  assert.equal(seen[1].content, 'deleted');
  assert.equal(await dequeue(), undefined);

  // no click
  job.messageId = 'm2';
  await transaction(pool, (db) => gateway.dispatch(db, job));
  assert.equal(await next(), 'suspended');
  await until(() => seen.length === 3);
  await advance('2 days');
  await until(() => seen.length === 4);
  assert.equal(seen[3].errorCode, 'WAIT_EXPIRED');
  assert.equal(await click(), false);
  await worker.close();
  await gateway.close();
});
