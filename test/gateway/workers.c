/*
 * workers.c
 *		Worker processes: start them, hear them, beat for them, bury them.
 *
 * Each has a socket to its gateway.  The gateway writes the message's text, ended
 * by a zero byte, and later perhaps 'a': abandon.  The worker writes its turn's
 * generation as a line when it has taken the turn, 'b' as long as it is alive,
 * once more 'd' when it has done its part.  The gateway beats only for workers
 * that it has heard since the last time, so a worker that is stopped or stuck is
 * silent to the database too, however well the gateway is.
 */
#define _GNU_SOURCE				/* close_range */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gateway.h"

struct Worker
{
	struct Worker *next;
	pid_t		pid;
	int			fd;				/* -1: it closed its end */
	char	   *deployment;
	char	   *message_id;
	char	   *text;			/* that it has not been given yet */
	int			generation;		/* of the turn as it took it, 0 before */
	int			number;			/* that is coming in */
	bool		attached;		/* the database watches its session */
	bool		rescue;			/* its turn may go to another worker */
	bool		own_beats;
	bool		heard;			/* since the last heartbeats */
	bool		counted;		/* the database has had a beat for it */
	bool		done;			/* nothing is owed any more */
	bool		exited;
	int			status;
};

static Worker *workers = NULL;

/* in the child: the socket becomes descriptor 3, and nothing else goes along */
static void
become_worker(int fd, const char *deployment, const Message *message)
{
	char		interval[32];
	Buffer		wait = {0};
	const char *argv[10];
	int			argc = 0;
	sigset_t	none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	if (fd == 3)
		fcntl(fd, F_SETFD, 0);
	else if (dup2(fd, 3) < 0)
		_exit(127);
	close_range(4, ~0U, 0);

	snprintf(interval, sizeof(interval), "--interval=%d", options.beat_ms / 2 > 0 ? options.beat_ms / 2 : 1);
	argv[argc++] = options.worker;
	argv[argc++] = interval;
	if (message->attach)
		argv[argc++] = "--attach";
	if (message->own_beats)
		argv[argc++] = "--own-beats";
	if (message->wait)
	{
		buffer_printf(&wait, "--wait=%s", message->wait);
		argv[argc++] = wait.data;
	}
	argv[argc++] = message->mode;
	argv[argc++] = deployment;
	argv[argc++] = message->id;
	argv[argc] = NULL;
	execv(options.worker, (char **) argv);
	_exit(127);
}

/* a process that waits for its message, or NULL; then worker_go() or worker_cancel() */
Worker *
worker_start(const char *deployment, const Message *message)
{
	Worker	   *worker;
	int			fds[2];
	pid_t		pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return NULL;
	fflush(stdout);
	pid = fork();
	if (pid == 0)
		become_worker(fds[1], deployment, message);
	close(fds[1]);
	if (pid < 0)
	{
		close(fds[0]);
		return NULL;
	}

	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	worker = xcalloc(sizeof(Worker));
	worker->pid = pid;
	worker->fd = fds[0];
	worker->deployment = xstrdup(deployment);
	worker->message_id = xstrdup(message->id);
	worker->text = xstrdup(message->text);
	worker->attached = message->attach;
	worker->rescue = message->rescue != NULL;
	worker->own_beats = message->own_beats;
	worker->next = workers;
	workers = worker;
	return worker;
}

static void
abandon(Worker *worker)
{
	worker->done = true;
	if (worker->fd >= 0)
		write_all(worker->fd, "a", 1);
	say("worker %d told to abandon %s %s", (int) worker->pid, worker->deployment, worker->message_id);
}

/* the turn is its: gives it the message, and takes the turn from another of ours */
pid_t
worker_go(Worker *worker)
{
	worker_abandon(worker->deployment, worker->message_id);
	say("worker %d started for %s %s", (int) worker->pid, worker->deployment, worker->message_id);
	write_all(worker->fd, worker->text, strlen(worker->text) + 1);
	free(worker->text);
	worker->text = NULL;
	return worker->pid;
}

/* it ends when the socket closes before a message came */
void
worker_cancel(Worker *worker)
{
	close(worker->fd);
	worker->fd = -1;
	worker->done = true;
}

/* the one that works on a turn: a newer one has made the others abandon it */
static Worker *
worker_find(const char *deployment, const char *message_id)
{
	for (Worker *worker = workers; worker != NULL; worker = worker->next)
	{
		if (!worker->exited && !worker->done && worker->text == NULL && strcmp(worker->deployment, deployment) == 0 &&
			strcmp(worker->message_id, message_id) == 0)
			return worker;
	}
	return NULL;
}

bool
worker_has(const char *deployment, const char *message_id)
{
	return worker_find(deployment, message_id) != NULL;
}

/* the turn is over: no client waits for this worker */
void
worker_abandon(const char *deployment, const char *message_id)
{
	Worker	   *worker = worker_find(deployment, message_id);

	if (worker != NULL)
		abandon(worker);
}

/* adds what is to be polled behind fds[used], gives how many there are then */
int
workers_poll_fds(struct pollfd **fds, int used)
{
	int			count = used;

	for (Worker *worker = workers; worker != NULL; worker = worker->next)
		count++;
	*fds = realloc(*fds, count * sizeof(struct pollfd));
	if (*fds == NULL)
		die("out of memory");
	for (Worker *worker = workers; worker != NULL; worker = worker->next)
	{
		(*fds)[used].fd = worker->fd;
		(*fds)[used].events = POLLIN;
		(*fds)[used].revents = 0;
		used++;
	}
	return used;
}

/* everything that a worker has written */
static void
worker_read(Worker *worker)
{
	char		bytes[256];
	ssize_t		len;

	while ((len = read(worker->fd, bytes, sizeof(bytes))) > 0)
	{
		for (int i = 0; i < len; i++)
		{
			if (bytes[i] == 'b')
				worker->heard = true;
			else if (bytes[i] == 'd')
				worker->done = true;
			else if (bytes[i] == '\n')
			{
				worker->generation = worker->number;
				say("worker %d took %s %s generation %d", (int) worker->pid,
					worker->deployment, worker->message_id, worker->generation);
			}
			else
				worker->number = 10 * worker->number + (bytes[i] - '0');
		}
	}
	if (len == 0 || (errno != EAGAIN && errno != EINTR))
	{
		close(worker->fd);
		worker->fd = -1;
	}
}

/* takes the signs of life; fds is what workers_poll_fds() added */
void
workers_read(const struct pollfd *fds, int nfds)
{
	for (int i = 0; i < nfds; i++)
	{
		Worker	   *worker = workers;

		if (fds[i].fd < 0 || fds[i].revents == 0)
			continue;
		while (worker != NULL && worker->fd != fds[i].fd)
			worker = worker->next;
		if (worker != NULL)
			worker_read(worker);
	}
}

/* takes note of the workers that ended */
void
workers_reap(void)
{
	pid_t		pid;
	int			status;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
	{
		for (Worker *worker = workers; worker != NULL; worker = worker->next)
		{
			if (worker->pid != pid)
				continue;
			worker->exited = true;
			worker->status = status;
			if (WIFSIGNALED(status))
				say("worker %d was ended by signal %d", (int) pid, WTERMSIG(status));
		}
	}
}

/*
 * A worker that ended without a word leaves a turn behind.  The database sees the
 * end of an attached worker's session by itself, and offers a turn that has a
 * rescue window to all gateways when it lapses.  The end of any other worker only
 * this gateway knows.  False: the database could not be told, try again.
 */
bool
workers_bury(void)
{
	bool		told = true;

	for (Worker **link = &workers; *link != NULL;)
	{
		Worker	   *worker = *link;
		bool		never_ran;

		if (!worker->exited)
		{
			link = &worker->next;
			continue;
		}
		if (worker->fd >= 0)
			worker_read(worker);	/* its last words */
		never_ran = WIFEXITED(worker->status) && WEXITSTATUS(worker->status) == 127;
		if (!worker->done && !worker->rescue && (never_ran || !worker->attached))
		{
			char		generation[16];
			char	   *result = NULL;
			DbStatus	status;

			snprintf(generation, sizeof(generation), "%d", worker->generation);
			status = db_fail_worker(worker->deployment, worker->message_id,
									worker->generation > 0 ? generation : NULL,
									never_ran ? "The worker could not be started." :
									"The worker handling your request stopped unexpectedly.",
									never_ran ? "WORKER_STARTUP_FAILED" : "WORKER_DIED", &result);
			free(result);
			if (status != DB_OK && status != DB_REFUSED)
			{
				told = false;
				link = &worker->next;
				continue;
			}
		}
		*link = worker->next;
		if (worker->fd >= 0)
			close(worker->fd);
		free(worker->deployment);
		free(worker->message_id);
		free(worker->text);
		free(worker);
	}
	return told;
}

/* it is alive, and has a turn that the gateway may beat for */
static bool
beats_for(const Worker *worker)
{
	return worker->heard && worker->generation > 0 && !worker->done && !worker->exited && !worker->own_beats;
}

/*
 * One call for all workers that were heard, each beat fenced by the generation
 * that its worker took.  What comes back is over: answered, failed, stopped or
 * handed over, perhaps through another replica.  False: no answer.
 */
bool
workers_beat(void)
{
	Buffer		deployments = {0};
	Buffer		message_ids = {0};
	Buffer		generations = {0};
	PGresult   *over;
	bool		answered;

	for (Worker *worker = workers; worker != NULL; worker = worker->next)
	{
		char		number[16];

		if (!beats_for(worker))
			continue;
		snprintf(number, sizeof(number), "%d", worker->generation);
		array_add(&deployments, worker->deployment);
		array_add(&message_ids, worker->message_id);
		array_add(&generations, number);
	}
	if (deployments.len == 0)
		return true;

	over = db_heartbeats(array_end(&deployments), array_end(&message_ids), array_end(&generations));
	answered = over != NULL;
	for (Worker *worker = workers; over != NULL && worker != NULL; worker = worker->next)
	{
		if (!beats_for(worker))
			continue;
		worker->heard = false;
		if (!worker->counted)
			say("worker %d beats", (int) worker->pid);
		worker->counted = true;
	}
	for (int i = 0; over != NULL && i < PQntuples(over); i++)
		worker_abandon(PQgetvalue(over, i, 0), PQgetvalue(over, i, 1));
	PQclear(over);
	buffer_free(&deployments);
	buffer_free(&message_ids);
	buffer_free(&generations);
	return answered;
}

/* the database was away: what was heard meanwhile may be long past */
void
workers_forget(void)
{
	for (Worker *worker = workers; worker != NULL; worker = worker->next)
		worker->heard = false;
}

/*
 * This gateway goes.  Its workers see the socket close; one that is stopped must
 * run to see anything.
 */
void
workers_release(void)
{
	for (Worker *worker = workers; worker != NULL; worker = worker->next)
	{
		if (!worker->exited)
			kill(worker->pid, SIGCONT);
	}
}
