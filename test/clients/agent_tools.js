#!/usr/bin/env node
// The worker of a2a_test.mjs and mcp_test.mjs: agent.js with tools to try everything with.
'use strict';

const { on } = require('node:events');
const { setTimeout: wait } = require('node:timers/promises');
const { main } = require('./agent.js');

const said = (text, more = {}) => ({ content: [{ type: 'text', text }], ...more });
const yes = ({ action, content = {} }) =>
  action === 'accept' && (content.confirm === true || content.text === 'yes');

main({
  async slow_compute({ seconds = 0 }, { signal, progress }) {
    await progress(`computes for ${seconds} s`);
    await wait(seconds * 1000, null, { signal });
    return said(`computed for ${seconds} s`);
  },
  failing_job: async () => said('did not work', { isError: true }),
  protocol_error_job: async () => { throw new Error('broke'); },
  async confirm_delete({ filename }, { answers }) {
    if (!answers.confirm) return { questions: { confirm: `Delete ${filename}?` } };
    return said(yes(answers.confirm) ? `deleted ${filename}` : `kept ${filename}`);
  },
  async multi_input(args, { answers }) {
    if (!answers.first) return { questions: { first: 'The first?', second: 'The second?' } };
    return said(`first: ${answers.first.content.name}, second: ${answers.second.content.name}`);
  },
  test_tool_with_task: async ({ name }) => said(`Hello, ${name}!`),
  // Goes on when the test says so. It does not listen when its task is taken from it, so that
  // its late words show that they do not count.
  async steps(args, { progress }) {
    const orders = on(process, 'message');
    await progress('ready for orders');
    for await (const [order] of orders) {
      if (order.startsWith('end')) return said(order);
      await progress(order);
    }
  },
});
