// Processes of a test: started, watched by their lines, killed, and never left behind.
'use strict';

const { fork } = require('node:child_process');
const { EventEmitter, once } = require('node:events');
const path = require('node:path');
const readline = require('node:readline');

const running = new Set();
process.on('exit', () => { for (const child of running) child.kill('SIGKILL'); });

// Waits for its line "ready ADDRESS".
async function start(file) {
  const child = fork(path.join(__dirname, file), { stdio: ['ignore', 'pipe', 'inherit', 'ipc'] });
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

module.exports = { start };
