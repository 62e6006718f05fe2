// Progress: the worker's messages before the answer, in order, each once, also for a client that
// comes back with its Last-Event-ID.
'use strict';

const assert = require('node:assert');
const { Gateway } = require('../gateway.js');
const { Worker } = require('../worker.js');
const { transaction } = require('../database.js');
const { dequeue, enqueue, pool, prefix, run, until } = require('../tests/common.js');

run(async () => {
  const gateway = new Gateway({ pool, enqueue });
  const worker = new Worker({ pool });
  const job = { deployment: `${prefix}/c`, messageId: 'm1', routing: {} };
  const events = [];
  gateway.listen();
  const open = (cursor) => gateway.stream(job.deployment, cursor, ({ reply_id: id, outcome, payload }) =>
    events.push({ id, type: outcome, data: payload.status ?? payload.content }));

  await transaction(pool, (db) => gateway.dispatch(db, job));
  let close = open('0');
  let turn;
  assert.equal(await worker.run(await dequeue(), async (held) => {
    turn = held;
    await turn.update({ status: 'searching' });
    await until(() => events.length === 1);
    close();                                        // the client goes
    await turn.update({ status: 'reading' });
    await turn.update({ status: 'writing' });
    close = open(events[0].id);                     // and comes back
    return { content: '42' };
  }), 'won');
  await until(() => events.length === 4);
  assert.deepEqual(events.map(({ type, data }) => [type, data]),
    [['update', 'searching'], ['update', 'reading'], ['update', 'writing'], ['answer', '42']]);

  // after the last message there is no other
  assert.equal(await turn.update({ status: 'still here' }), null);
  close();
  await worker.close();
  await gateway.close();
});
