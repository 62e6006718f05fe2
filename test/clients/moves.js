#!/usr/bin/env node
// Replies move into the queue of another system, here graphile-worker's, exactly
// once: claimed, enqueued and acknowledged in one statement. Relays that race,
// that are killed and that roll back neither lose one nor enqueue one twice.
'use strict';

const assert = require('node:assert');
const { Pool } = require('pg');
const { Logger, runMigrations, runOnce } = require('graphile-worker');

const N = 200;
const platform = `relay-${process.pid}`;

const MOVE = `
  WITH claimed AS (
      SELECT * FROM turn_liveness.claim_replies('relay', platforms => ARRAY[$1], max_replies => 7)
  ), job AS (
      SELECT graphile_worker.add_job('deliver', payload::json) FROM claimed
  )
  SELECT turn_liveness.ack_replies('relay', array_agg(reply_id)) AS moved, (SELECT count(*) FROM job) AS jobs
  FROM claimed`;

// Every fifth time the transaction rolls back, every seventh time its session is killed.
let rounds = 0;

async function relay(pool) {
  for (;;) {
    const round = ++rounds;
    const killed = round % 7 === 0;
    const db = await pool.connect();
    try {
      await db.query('BEGIN');
      const { rows: [{ moved, jobs }] } = await db.query(MOVE, [platform]);
      assert.equal(moved, Number(jobs));
      if (killed) {
        await assert.rejects(db.query('SELECT pg_terminate_backend(pg_backend_pid())'));
      } else if (round % 5 === 0) {
        await db.query('ROLLBACK');
      } else {
        await db.query('COMMIT');
        if (moved === 0) return;
      }
    } finally {
      db.release(killed);
    }
  }
}

async function main() {
  const pool = new Pool({ max: 4 });
  pool.on('connect', (client) => client.on('error', () => {}));    // the killed ones
  await runMigrations({ pgPool: pool });
  await pool.query(`SELECT turn_liveness.arm_turn('relay', $1 || i, jsonb_build_object('platform', $1::text)),
                           turn_liveness.commit_terminal_reply('relay', ARRAY[$1 || i], jsonb_build_object('n', i))
                    FROM generate_series(1, $2::int) i`, [platform, N]);
  await Promise.all([relay(pool), relay(pool), relay(pool)]);

  const { rows: [{ due, delivered }] } = await pool.query(`
    SELECT count(*) FILTER (WHERE state <> 'delivered')::int AS due, count(*) FILTER (WHERE state = 'delivered')::int AS delivered
    FROM turn_liveness.replies WHERE platform = $1`, [platform]);
  assert.deepEqual({ due, delivered }, { due: 0, delivered: N });

  const seen = [];
  await runOnce({
    pgPool: pool, noHandleSignals: true, logger: new Logger(() => () => {}),
    taskList: { deliver: (payload) => { if (payload.platform === platform) seen.push(payload.n); } },
  });
  await pool.end();
  assert.deepEqual(seen.sort((a, b) => a - b), Array.from({ length: N }, (_, i) => i + 1));
}

main().catch((error) => { console.error(error); process.exit(1); });
