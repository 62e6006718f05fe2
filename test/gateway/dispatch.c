/*
 * dispatch.c
 *		From a turn that is owed to a worker that has it.
 *
 * A gateway that gives a turn to its next worker does so in one transaction:
 * it takes the turn (rescue_turns or resume_turn), starts a process, commits,
 * and only then gives the process its message.
 *
 *	the gateway dies before the COMMIT	the turn is as it was; the process sees
 *										the socket close before a message came
 *	no process can be started			the gateway rolls back, and another one
 *										may take the turn
 *	the gateway dies after the COMMIT	the admission of the new generation
 *										lapses like any other
 */
#include <stdlib.h>
#include <string.h>

#include "gateway.h"

/* a turn that lapses again and again is not the workers' fault alone */
#define MOST_GENERATIONS 3
#define MOST_RESCUED 10			/* rows that db_rescue() asks for */

/* "never" stands for a worker that is dispatched and never starts */
static bool
wants_worker(const Message *message)
{
	return strcmp(message->mode, "never") != 0;
}

/*
 * A message came in: arm its turn, and dispatch it when that is committed.
 *
 * "pending" is a turn that was armed before: the client sends it again, or
 * another replica died between arming and dispatching.  Arming it again hands it
 * over: a worker that may have it elsewhere learns from its next beat that its
 * generation is over.  A worker of ours keeps it.
 */
DbStatus
dispatch_message(const char *conversation, const Message *message, char **result, pid_t *pid)
{
	DbStatus	status;
	Worker	   *worker;

	if (worker_has(conversation, message->id))
	{
		*result = xstrdup("pending");
		return DB_OK;
	}
	status = db_arm(conversation, message, result);
	if (status != DB_OK || strcmp(*result, "answered") == 0 || !wants_worker(message))
		return status;

	worker = worker_start(conversation, message);
	if (worker != NULL)
		*pid = worker_go(worker);
	else
	{
		free(*result);
		db_fail(conversation, message->id, "The worker could not be started.", "WORKER_STARTUP_FAILED", result);
	}
	return DB_OK;
}

/*
 * The client answered the question for which its turn waits: the next worker
 * goes on with the answer.  Not resumed: the turn does not wait, or no longer.
 */
DbStatus
dispatch_answer(const char *conversation, const char *message_id, const char *answer,
				bool *resumed, pid_t *pid)
{
	Message		message = {0};
	Worker	   *worker = NULL;
	DbStatus	status = DB_AWAY;
	char	   *body = NULL;

	*resumed = false;
	if (db_begin())
		status = db_resume(conversation, message_id, answer, &body);
	if (status == DB_OK && body != NULL)
		status = db_parse_message(conversation, body, &message);
	if (status == DB_OK && body != NULL)
		worker = worker_start(conversation, &message);

	if (worker == NULL)
	{
		db_rollback();
		if (status == DB_OK && body != NULL)
			status = DB_FAILED;
	}
	else if (db_commit())
	{
		*resumed = true;
		*pid = worker_go(worker);
	}
	else
	{
		worker_cancel(worker);
		status = DB_AWAY;
	}
	free(body);
	message_free(&message);
	return status;
}

/*
 * One turn that we have taken.  We give up, for the client, one that no gateway
 * can dispatch (another program armed it) and one that lapsed too often.  False:
 * let another gateway take it.
 */
static bool
rescue_one(PGresult *rows, int row, Worker **worker)
{
	const char *deployment = PQgetvalue(rows, row, LAPSED_DEPLOYMENT);
	const char *message_id = PQgetvalue(rows, row, LAPSED_MESSAGE_ID);
	Message		message = {0};
	char	   *result = NULL;
	bool		done;

	if (PQgetisnull(rows, row, LAPSED_BODY) || atoi(PQgetvalue(rows, row, LAPSED_GENERATION)) > MOST_GENERATIONS)
	{
		done = db_fail(deployment, message_id, "The workers handling your request stopped unexpectedly.",
					   PQgetvalue(rows, row, LAPSED_ERROR_CODE), &result) == DB_OK;
		free(result);
		return done;
	}
	done = db_parse_message(deployment, PQgetvalue(rows, row, LAPSED_BODY), &message) == DB_OK;
	if (done && wants_worker(&message))
	{
		*worker = worker_start(deployment, &message);
		done = *worker != NULL;
	}
	message_free(&message);
	return done;
}

/* takes over turns whose workers fell silent or died, wherever they were */
void
dispatch_lapsed(void)
{
	int			count;
	bool		done;

	do
	{
		Worker	   *taken[MOST_RESCUED] = {0};
		PGresult   *rows = db_begin() ? db_rescue() : NULL;

		count = rows == NULL ? 0 : PQntuples(rows);
		done = rows != NULL;
		for (int i = 0; done && i < count; i++)
			done = rescue_one(rows, i, &taken[i]);
		if (!done)
			db_rollback();
		else
			done = db_commit();

		for (int i = 0; i < count; i++)
		{
			if (done)
				say("rescued %s %s generation %s %s", PQgetvalue(rows, i, LAPSED_DEPLOYMENT),
					PQgetvalue(rows, i, LAPSED_MESSAGE_ID), PQgetvalue(rows, i, LAPSED_GENERATION),
					PQgetvalue(rows, i, LAPSED_ERROR_CODE));
			if (taken[i] != NULL && done)
				worker_go(taken[i]);
			else if (taken[i] != NULL)
				worker_cancel(taken[i]);
		}
		PQclear(rows);
	} while (done && count == MOST_RESCUED);
}
