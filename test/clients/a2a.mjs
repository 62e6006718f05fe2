#!/usr/bin/env node
// An A2A server whose task store is turn_liveness: any number of replicas, none with a state.
//
// The SDK speaks HTTP and JSON-RPC and asks the class Handler below. Its own event bus and task
// store stay unused, for they know one process only.
//
//   A2A                              turn_liveness
//   SendMessage                      arm_turn and the job; or the answer, resume_turn and the job
//   submitted, working               waiting for its first worker; owed otherwise
//   input_required                   suspended; the question is the last update
//   completed, failed                the terminal reply
//   canceled, rejected               fail_turn with CANCELLED; reject_turn
//   GetTask                          get_turn, read_replies
//   SubscribeToTask, on any replica  the same, then read_replies past its cursor
//   push notification                claim_replies, ack_replies, release_replies
//
// It knows no users. A gateway with users shows each its own tasks, and sends to no URL
// of a webhook that it has not checked.

import { randomUUID } from 'node:crypto';
import {
  A2A_CONTENT_TYPE, AGENT_CARD_PATH, AgentCard, Message, StreamResponse, Task, taskStateToJSON,
} from '@a2a-js/sdk';
import {
  RequestMalformedError, TaskNotCancelableError, TaskNotFoundError, UnsupportedOperationError,
} from '@a2a-js/sdk/errors';
import { agentCardHandler, jsonRpcHandler, UserBuilder } from '@a2a-js/sdk/server/express';
import express from 'express';
import tasks from './tasks.js';

const PLATFORM = 'a2a';
const SKILLS = ['slow_compute', 'confirm_delete', 'failing_job', 'protocol_error_job', 'steps'];

// --- from our words to A2A's, in its JSON

const REFUSED = { CANCELLED: 'TASK_STATE_CANCELED', REJECTED: 'TASK_STATE_REJECTED' };

// What a reply says. It says the same on each replica, and when it is told twice.
function stateOf({ outcome, payload }) {
  if (outcome === 'error') return REFUSED[payload.errorCode] ?? 'TASK_STATE_FAILED';
  if (outcome === 'answer') return 'TASK_STATE_COMPLETED';
  return payload.questions ? 'TASK_STATE_INPUT_REQUIRED' : 'TASK_STATE_WORKING';
}

// What a turn is. One that waits for a worker again, after an answer, is still working.
function stateNow(task) {
  if (tasks.ended(task)) return stateOf({ outcome: task.state, payload: task.payload });
  if (task.state === 'suspended') return 'TASK_STATE_INPUT_REQUIRED';
  if (task.state === 'waiting' && task.generation === 1) return 'TASK_STATE_SUBMITTED';
  return 'TASK_STATE_WORKING';
}

const message = (task, { reply_id: messageId, payload }) => ({
  messageId, contextId: task.context, taskId: task.id, role: 'ROLE_AGENT',
  parts: [{ text: payload.error ?? payload.text ?? Object.values(payload.questions).join('\n') }],
  ...payload.errorCode && { metadata: { errorCode: payload.errorCode } },
});

const artifact = ({ content }) =>
  ({ artifactId: 'answer', parts: content.map(({ text }) => ({ text })) });

function snapshot(task, historyLength = Infinity, artifacts = true) {
  const said = task.updates.map((update) => message(task, update));
  const last = task.state === 'error' ? message(task, task) : said.at(-1);
  const history = historyLength === 0 ? [] : [task.request.message, ...said].slice(-historyLength);
  const time = new Date(task.ended_at ?? task.last_beat ?? task.armed_at).toISOString();
  const done = task.state === 'answer';
  return {
    id: task.id, contextId: task.context, history,
    artifacts: done && artifacts ? [artifact(task.payload)] : [],
    status: { state: stateNow(task), timestamp: time, ...!done && last && { message: last } },
  };
}

// What one reply tells a stream.
function eventsOf(task, reply) {
  const event = { taskId: task.id, contextId: task.context };
  const status = { state: stateOf(reply), timestamp: new Date(reply.created_at).toISOString() };
  if (reply.outcome !== 'answer') {
    return [{ statusUpdate: { ...event, status: { ...status, message: message(task, reply) } } }];
  }
  return [{ artifactUpdate: { ...event, artifact: artifact(reply.payload), lastChunk: true } },
    { statusUpdate: { ...event, status } }];
}

// --- the requests

async function find(id) {
  const task = await tasks.get(id);
  if (!task) throw new TaskNotFoundError({ message: `Task not found: ${id}` });
  return task;
}

// The agent understands a data part {name, arguments}; a message for a task is an answer to it.
async function accept({ message: sent, configuration }) {
  const { taskId, contextId, parts = [], ...json } = sent ? Message.toJSON(sent) : {};
  if (parts.length === 0) throw new RequestMalformedError({ message: 'The message has no parts.' });
  if (taskId) return answer(await find(taskId), contextId, parts);

  const options = { context: contextId || randomUUID(), hooks: {} };
  const hook = configuration?.taskPushNotificationConfig;
  if (hook) options.hooks[hook.id || 'default'] = { ...hook, id: hook.id || 'default' };
  const request = { ...parts.find(({ data }) => data)?.data, message: { ...json, parts } };
  if (SKILLS.includes(request.name)) return tasks.create(PLATFORM, request, options);
  return tasks.reject(PLATFORM, request, 'The agent has no such skill.', options);
}

async function answer(task, contextId, parts) {
  if (contextId && contextId !== task.context) {
    throw new RequestMalformedError({ message: 'The task belongs to another context.' });
  }
  const given = { action: 'accept', content: { text: parts.map(({ text }) => text).join('\n') } };
  const answered = await tasks.answer(task.id,
    (open) => Object.fromEntries(open.map((key) => [key, given])));
  if (!answered) throw new UnsupportedOperationError({ message: 'The task waits for no message.' });
  return answered;
}

async function* stream(task) {
  yield StreamResponse.fromJSON({ task: snapshot(task) });
  if (tasks.ended(task)) return;
  for await (const reply of tasks.follow(task.id, task.cursor)) {
    yield* eventsOf(task, reply).map(StreamResponse.fromJSON);
  }
}

const BUSY = ['TASK_STATE_SUBMITTED', 'TASK_STATE_WORKING'];

class Handler {
  constructor(card) { this.card = card; }

  async getAgentCard() { return this.card; }

  async getAuthenticatedExtendedAgentCard() { throw new UnsupportedOperationError(); }

  // Waits for the end or for a question, unless the client does not want to.
  async sendMessage(params) {
    const { returnImmediately, historyLength } = params.configuration ?? {};
    let task = await accept(params);
    if (!returnImmediately && BUSY.includes(stateNow(task))) {
      for await (const { payload } of tasks.follow(task.id, task.cursor)) {
        if (payload.questions) break;
      }
      task = await find(task.id);
    }
    return Task.fromJSON(snapshot(task, historyLength));
  }

  async* sendMessageStream(params) { yield* stream(await accept(params)); }

  async getTask({ id, historyLength }) {
    return Task.fromJSON(snapshot(await find(id), historyLength));
  }

  // The newest first; the token of the next page says where the last one ended.
  async listTasks({ contextId, status, pageSize = 50, pageToken, ...wanted }) {
    const [{ total }] = await tasks.rows(
      "SELECT count(*)::int AS total FROM tasks WHERE $1 IN (context, '')", contextId);
    const found = await tasks.rows(`SELECT id, created_at::text AS at FROM tasks
      WHERE $1 IN (context, '') AND ($2 = '' OR
        (created_at, id) < (($2::jsonb->>0)::timestamptz, $2::jsonb->>1))
      ORDER BY created_at DESC, id DESC LIMIT $3`, contextId, pageToken, pageSize);
    const known = (await Promise.all(found.map(({ id }) => tasks.get(id)))).filter(Boolean)
      .filter((task) => !status || stateNow(task) === taskStateToJSON(status))
      .map((task) => snapshot(task, wanted.historyLength, wanted.includeArtifacts));
    const last = found.length === pageSize && found.at(-1);
    const nextPageToken = last ? JSON.stringify([last.at, last.id]) : '';
    return { tasks: known.map(Task.fromJSON), nextPageToken, pageSize, totalSize: total };
  }

  // An id that a client knows is one whose arm is committed: fail_turn cannot come before it.
  async cancelTask({ id }) {
    const election = await tasks.cancel(id);
    const task = await find(id);
    if (election === 'lost') throw new TaskNotCancelableError({ message: 'The task has ended.' });
    return Task.fromJSON(snapshot(task));
  }

  // The snapshot holds all that is not past its cursor. So what another replica told an earlier
  // stream is not told again, and nothing in between is lost.
  async* resubscribe({ id }) {
    const task = await find(id);
    if (tasks.ended(task)) throw new UnsupportedOperationError({ message: 'The task has ended.' });
    yield* stream(task);
  }

  async createTaskPushNotificationConfig(config) {
    const made = { ...config, id: config.id || randomUUID() };
    await find(made.taskId);
    await tasks.rows('UPDATE tasks SET hooks = hooks || $2 WHERE id = $1',
      made.taskId, { [made.id]: made });
    return made;
  }

  async getTaskPushNotificationConfig({ taskId, id }) {
    const config = (await find(taskId)).hooks[id];
    if (!config) throw new TaskNotFoundError({ message: `The task has no configuration ${id}` });
    return { ...config, taskId };
  }

  async listTaskPushNotificationConfigs({ taskId }) {
    const { hooks } = await find(taskId);
    const configs = Object.values(hooks).map((config) => ({ ...config, taskId }));
    return { configs, nextPageToken: '' };
  }

  async deleteTaskPushNotificationConfig({ taskId, id }) {
    await find(taskId);
    await tasks.rows('UPDATE tasks SET hooks = hooks - $2::text WHERE id = $1', taskId, id);
  }
}

// --- push notifications

// A reply is claimed by one replica, and acknowledged when each webhook of its task has taken
// it. Else it is tried again, and one that had taken it gets it twice.
async function notify(reply) {
  const task = await tasks.get(reply.message_ids[0]);
  if (!task) return;
  const ended = reply.outcome !== 'update';
  const body = JSON.stringify(ended ? { task: snapshot(task) } : eventsOf(task, reply)[0]);
  await Promise.all(Object.values(task.hooks).map(async ({ url, token, authentication }) => {
    const headers = { 'Content-Type': A2A_CONTENT_TYPE };
    if (token) headers['X-A2A-Notification-Token'] = token;
    if (authentication) {
      headers.Authorization = `${authentication.scheme} ${authentication.credentials}`;
    }
    const signal = AbortSignal.timeout(10000);          // well within claim_timeout
    const response = await fetch(url, { method: 'POST', headers, body, signal });
    if (!response.ok) throw new Error(`the webhook said ${response.status}`);
  }));
}

// --- the process

const cardOf = (url) => AgentCard.fromJSON({
  name: 'turn_liveness example', description: 'Its tasks end, whatever dies', version: '1.0.0',
  supportedInterfaces: [{ url, protocolBinding: 'JSONRPC', protocolVersion: '1.0' }],
  capabilities: { streaming: true, pushNotifications: true },
  defaultInputModes: ['application/json', 'text/plain'], defaultOutputModes: ['text/plain'],
  skills: SKILLS.map((id) => ({ id, name: id, description: id, tags: ['example'] })),
});

const app = express();
const server = app.listen(Number(process.env.PORT ?? 0), '127.0.0.1', () => {
  const url = `http://127.0.0.1:${server.address().port}`;
  const requestHandler = new Handler(cardOf(`${url}/a2a`));
  app.use(`/${AGENT_CARD_PATH}`, agentCardHandler({ agentCardProvider: requestHandler }));
  app.use('/a2a', jsonRpcHandler({ requestHandler, userBuilder: UserBuilder.noAuthentication }));
  tasks.listen();
  tasks.push(`a2a-${process.pid}`, PLATFORM, notify);
  console.log(`ready ${url}`);
});
