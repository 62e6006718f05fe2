// What a2a_test.mjs and mcp_test.mjs need: roles that may do no more than they must, and processes
// that are watched by their lines, killed, and never left behind.
'use strict';

const { fork } = require('node:child_process');
const { EventEmitter, once } = require('node:events');
const path = require('node:path');
const readline = require('node:readline');
const pg = require('pg');
const { pool, setup } = require('./tasks.js');

// A session that was cut attaches its tasks again, however late it is on a busy machine.
const COMES_BACK = "SET turn_liveness.reconnect_window = '1 h'";

const prepare = async () => {
  await setup();
  await window(COMES_BACK);
  await pool.query(`
    DO $$ BEGIN
      IF to_regrole('task_gateway') IS NULL THEN
        CREATE ROLE task_gateway LOGIN;
        CREATE ROLE task_worker LOGIN;
      END IF;
    END $$;
    SELECT turn_liveness.grant_gateway('task_gateway');
    GRANT SELECT, INSERT, UPDATE ON tasks TO task_gateway;
    GRANT INSERT ON task_jobs TO task_gateway;
    GRANT USAGE ON SEQUENCE task_jobs_seq_seq TO task_gateway;
    SELECT turn_liveness.grant_worker('task_worker');
    GRANT SELECT ON tasks TO task_worker;
    GRANT SELECT, UPDATE, DELETE ON task_jobs TO task_worker`);
};

const window = (verb) => pool.query(`DO $$ BEGIN
  EXECUTE format('ALTER DATABASE %I ', current_database()) || ${pg.escapeLiteral(verb)}; END $$`);

// Kills a worker that never comes back: its tasks fail, which the client waits to be told.
const dies = async (agent, told) => {
  await agent.kill();
  await window('SET turn_liveness.reconnect_window = 0');
  const result = await told();
  await window(COMES_BACK);
  return result;
};

const clean = async () => {
  await window('RESET turn_liveness.reconnect_window');
  await pool.query('DROP OWNED BY task_gateway, task_worker; DROP ROLE task_gateway, task_worker');
  await pool.end();
};

const running = new Set();
process.on('exit', () => { for (const child of running) child.kill('SIGKILL'); });

// Waits for its line "ready ADDRESS".
async function start(file) {
  const PGUSER = file.startsWith('agent') ? 'task_worker' : 'task_gateway';
  const child = fork(path.join(__dirname, file),
    { stdio: ['ignore', 'pipe', 'inherit', 'ipc'], env: { ...process.env, PGUSER } });
  running.add(child);
  child.on('exit', () => running.delete(child));
  const lines = [];
  const news = new EventEmitter();
  readline.createInterface({ input: child.stdout }).on('line', (line) => {
    lines.push(line);
    news.emit('line');
  });
  const ended = once(child, 'exit').then(() => { throw new Error(`${file} has ended`); });
  ended.catch(() => {});
  const line = async (fits) => {
    while (!lines.some(fits)) await Promise.race([once(news, 'line'), ended]);
    return lines.find(fits).split(' ');
  };
  const [, address] = await line((text) => text.startsWith('ready '));
  return {
    address,
    said: async (about) => (await line((text) => text.endsWith(` ${about}`)))[0],
    order: (text) => child.send(text),
    signal: (name) => child.kill(name),
    kill: async () => {
      child.kill('SIGKILL');
      await once(child, 'exit');
    },
  };
}

module.exports = { clean, dies, prepare, start };
