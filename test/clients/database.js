// Connections to the server that survive its restart and their own loss. gateway.js and worker.js
// beside this file share them. For Node's pg.
//
// A query with a "name" is prepared in its connection, and a pooler in transaction mode may give the
// next one to another server: give none a name. pg prepares nothing by itself.
'use strict';

const { hostname } = require('node:os');
const { setTimeout: sleep } = require('node:timers/promises');
const { Client, Pool } = require('pg');

const processName = `${hostname()}-${process.pid}`;

// The one value of a statement. An id is a bigint: pg gives it as a string, and takes it back as one.
const value = async (db, sql, ...args) => Object.values((await db.query(sql, args)).rows[0])[0];

// jsonb refuses a NUL and half of a surrogate pair, and a model's text may hold them.
const json = (object) => JSON.stringify(object, (_, v) =>
  (typeof v === 'string' ? v.replace(/[\0\p{Surrogate}]/gu, '') : v));

// Worth another try: a conflict, a deadlock, a lock_timeout, no free connection, a server that
// stops or starts, a connection that ended. Any other error is a mistake, and stays.
const worthRepeating = ({ severity, code = '', message = '' }) => (severity
  ? /^(08|40001|40P01|53300|55P03|57P0[1235])/.test(code)
  : /^(ECONN|EPIPE|ENOENT|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|EHOST|ENET)/.test(code)
    || /^(Connection terminated|Client (has|was)|timeout exceeded|Query read timeout)/.test(message));

async function repeat(work, patience = 120_000) {
  const end = performance.now() + patience;
  for (let wait = 50; ; wait = Math.min(2 * wait, 2000)) {
    try {
      return await work();
    } catch (error) {
      if (!worthRepeating(error) || performance.now() > end) throw error;
    }
    await sleep(wait * (0.5 + Math.random() / 2));
  }
}

// A connection without an "error" handler ends the process when it is lost.
function createPool(options, report = console.error) {
  const pool = new Pool({ keepAlive: true, connectionTimeoutMillis: 10_000, ...options });
  pool.on('error', report);                               // of an idle one: the pool makes another
  pool.on('connect', (db) => db.on('error', () => {}));   // of one in use: its next query fails, too
  return pool;
}

// body(db) in one transaction, and all of it again where that is worth it.
const transaction = (pool, body) => repeat(async () => {
  const db = await pool.connect();
  let lost;
  try {
    await db.query('BEGIN');
    const result = await body(db);
    const { command } = await db.query('COMMIT');
    if (command !== 'COMMIT') throw new Error('rolled back: body() kept an error of the transaction to itself');
    return result;
  } catch (error) {
    await db.query('ROLLBACK').catch((e) => { lost = e; });     // never hides the first error
    throw error;
  } finally {
    db.release(lost);
  }
});

// One run of work at a time; asked for meanwhile, it runs once more.
function single(work, report) {
  let running;
  let wanted;
  const run = () => {
    wanted = true;
    running ??= (async () => {
      while (wanted) {
        wanted = false;
        await repeat(work).catch(report);
      }
      running = undefined;
    })();
    return running;
  };
  run.idle = () => running;
  return run;
}

// One connection outside of any pool, made again when it is lost: open(db) after each connect, then
// tick(db) at once and every so many milliseconds.
class Connection {
  constructor({ options, every, open, tick, report = console.error }) {
    Object.assign(this, { options, every, open, tick, report, wake: () => {} });
    this.ended = this.#run();
  }

  async #run() {
    for (let wait = 50; !this.closed;) {
      const db = new Client({ keepAlive: true, connectionTimeoutMillis: 10_000, query_timeout: 10_000, ...this.options });
      db.on('error', () => this.wake()).on('end', () => this.wake());
      try {
        await db.connect();
        await this.open(db);
        for (this.db = db; !this.closed; await this.#pause(this.every)) {
          await this.tick(db);
          wait = 50;
        }
      } catch (error) {
        this.report(error);
        await this.#pause(wait);
        wait = Math.min(2 * wait, 2000);
      }
      db.end().catch(() => {});
    }
  }

  #pause(ms) {
    let timer;
    return new Promise((resolve) => {
      this.wake = resolve;
      timer = setTimeout(resolve, this.closed ? 0 : ms);
    }).finally(() => clearTimeout(timer));
  }

  close() {
    this.closed = true;
    this.wake();
    return this.ended;
  }
}

module.exports = { Connection, createPool, json, processName, repeat, single, transaction, value, worthRepeating };
