// Traces: the traceparent of the request is in the routing, so it is with the job, and in each reply
// and error that the client gets; the spans of gateway, worker and delivery are one trace.
'use strict';

const assert = require('node:assert');
const { randomBytes } = require('node:crypto');
const { Gateway } = require('../gateway.js');
const { Worker } = require('../worker.js');
const { transaction } = require('../database.js');
const { dequeue, enqueue, pool, prefix, run, until } = require('../tests/common.js');

// As a tracer's propagator gives it: version, trace, span, flags (W3C Trace Context).
const traceparent = () => `00-${randomBytes(16).toString('hex')}-${randomBytes(8).toString('hex')}-01`;

run(async () => {
  const seen = [];
  const gateway = new Gateway({ pool, enqueue });
  const worker = new Worker({ pool });
  gateway.listen();
  gateway.stream(`${prefix}/c`, '0', (reply) => seen.push(reply.payload));
  const turns = ['m1', 'm2', 'm3'].map((messageId) => (
    { deployment: `${prefix}/c`, messageId, routing: { traceparent: traceparent() } }));

  // answered
  await transaction(pool, (db) => gateway.dispatch(db, turns[0]));
  await worker.run(await dequeue(), async (turn) => {
    assert.equal(turn.job.routing.traceparent, turns[0].routing.traceparent);
    await turn.update({ status: 'searching' });
    return { content: '42' };
  });
  // stopped after the arm, which alone said where the trace is; and before it
  await transaction(pool, (db) => gateway.dispatch(db, turns[1]));
  await gateway.stop({ ...turns[1], routing: {} });
  await gateway.stop(turns[2]);

  await until(() => seen.length === 4);
  assert.deepEqual(seen.map((payload) => payload.traceparent), [0, 0, 1, 2].map((n) => turns[n].routing.traceparent));
  assert.deepEqual(seen.map((payload) => payload.errorCode), [undefined, undefined, 'CANCELLED', 'CANCELLED']);
  await worker.close();
  await gateway.close();
});
