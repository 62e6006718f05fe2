/*
 * gateway.c
 *		The reference gateway: options and the loop.
 *
 *	gateway [--port=N] [--name=NAME] [--worker=PROGRAM] [--push=PLATFORM]...
 *			[--push-file=FILE] [--guardrail=REGEX] [--beat-ms=N] [--poll-ms=N]
 *
 * The database is found through PGHOST, PGPORT, PGUSER, PGDATABASE.  The first
 * line on standard output is "listening on 127.0.0.1:PORT".
 *
 * Everything is done by one thread that waits in one poll(): for clients, for
 * notifications, for workers.  Statements are short, and it waits for them.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "gateway.h"

Options		options = {
	.port = 8080,
	.guardrail = "forbidden",
	.beat_ms = 1000,
	.poll_ms = 5000
};

/* what the loop has to look for */
static bool claim_wanted = true;
static bool rescue_wanted = true;

/* a line for the user to watch */
void
say(const char *format,...)
{
	va_list		args;
	Buffer		line = {0};
	char		text[1024];

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	text[strcspn(text, "\n")] = '\0';
	buffer_printf(&line, "%s\n", text);
	write_all(STDOUT_FILENO, line.data, line.len);
	buffer_free(&line);
}

/* there is something to claim */
void
want_push(void)
{
	claim_wanted = true;
}

/* there is a turn that another worker may take over */
void
want_rescue(void)
{
	rescue_wanted = true;
}

void
want_everything(void)
{
	streams_want(NULL);
	want_push();
	want_rescue();
}

static int
milliseconds(const char *text)
{
	char	   *end;
	long		value = strtol(text, &end, 10);

	if (end == text || *end != '\0' || value < 1 || value > 3600 * 1000)
		die("not a number of milliseconds: \"%s\"", text);
	return (int) value;
}

static void
parse_options(int argc, char **argv)
{
	static const struct option known[] = {
		{"port", required_argument, NULL, 'p'},
		{"name", required_argument, NULL, 'n'},
		{"worker", required_argument, NULL, 'w'},
		{"push", required_argument, NULL, 'u'},
		{"push-file", required_argument, NULL, 'f'},
		{"guardrail", required_argument, NULL, 'g'},
		{"beat-ms", required_argument, NULL, 'b'},
		{"poll-ms", required_argument, NULL, 'l'},
		{NULL, 0, NULL, 0}
	};
	static Buffer platforms;
	static Buffer worker;
	static Buffer name;
	int			c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1)
	{
		switch (c)
		{
			case 'p':
				options.port = atoi(optarg);
				break;
			case 'n':
				options.name = optarg;
				break;
			case 'w':
				options.worker = optarg;
				break;
			case 'u':
				array_add(&platforms, optarg);
				break;
			case 'f':
				options.push_file = optarg;
				break;
			case 'g':
				options.guardrail = optarg;
				break;
			case 'b':
				options.beat_ms = milliseconds(optarg);
				break;
			case 'l':
				options.poll_ms = milliseconds(optarg);
				break;
			default:
				exit(2);
		}
	}
	if (optind < argc)
		die("too many arguments: \"%s\"", argv[optind]);

	if (platforms.len > 0)
		options.platforms = array_end(&platforms);
	if (options.worker == NULL)
	{
		/* beside this program */
		const char *slash = strrchr(argv[0], '/');

		buffer_printf(&worker, "%.*sworker", slash ? (int) (slash + 1 - argv[0]) : 0, argv[0]);
		options.worker = worker.data;
	}
	if (options.name == NULL)
	{
		char		host[128] = "";

		gethostname(host, sizeof(host) - 1);
		buffer_printf(&name, "%s-%d", host, (int) getpid());
		options.name = name.data;
	}
}

/*
 * Pushes what is due to our platforms: claim, deliver, acknowledge.  The claim
 * is committed before anything is delivered, so no other replica sends the same;
 * an attempt above 1 tells the platform's users that they may have seen it.
 */
static void
push(void)
{
	PGresult   *rows;
	int			count = 0;

	do
	{
		Buffer		done = {0};
		Buffer		failed = {0};
		Buffer		reason = {0};

		rows = options.platforms == NULL ? NULL : db_claim();
		count = rows == NULL ? 0 : PQntuples(rows);
		for (int i = 0; i < count; i++)
		{
			const char *id = PQgetvalue(rows, i, REPLY_ID);
			Buffer		line = {0};
			int			fd = STDOUT_FILENO;

			buffer_printf(&line, "push %s %s %s attempt %s %s %s\n", PQgetvalue(rows, i, REPLY_PLATFORM), id,
						  PQgetvalue(rows, i, REPLY_OUTCOME),
						  PQgetvalue(rows, i, REPLY_ATTEMPT), PQgetvalue(rows, i, REPLY_CONVERSATION),
						  PQgetvalue(rows, i, REPLY_PAYLOAD));
			if (options.push_file != NULL)
				fd = open(options.push_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
			if (fd >= 0 && write_all(fd, line.data, line.len))
				array_add(&done, id);
			else
			{
				buffer_clear(&reason);
				buffer_printf(&reason, "%s", strerror(errno));
				array_add(&failed, id);
			}
			if (fd >= 0 && fd != STDOUT_FILENO)
				close(fd);
			buffer_free(&line);
		}
		if (done.len > 0)
			db_ack(array_end(&done));
		if (failed.len > 0)
			db_release(array_end(&failed), reason.data);
		PQclear(rows);
		buffer_free(&done);
		buffer_free(&failed);
		buffer_free(&reason);
	} while (count == 100);
}

/* SIGTERM, SIGINT and SIGCHLD as a descriptor */
static int
open_signals(void)
{
	sigset_t	set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void
loop(int signals)
{
	struct pollfd *fds = NULL;
	int64_t		beat_at = now_ms();
	int64_t		poll_at = now_ms() + options.poll_ms;
	bool		stopping = false;

	while (!stopping)
	{
		int64_t		now = now_ms();
		int			timeout;
		int			nfds;

		if (!db_connect())
			timeout = 100;		/* a server that starts again is back soon */
		else
		{
			timeout = options.poll_ms;
			workers_bury();
			if (now >= beat_at)
			{
				workers_reap(); /* it does not beat for the dead */
				workers_beat();
				beat_at = now + options.beat_ms;
			}
			if (now >= poll_at)
			{
				want_everything();
				streams_ping();
				poll_at = now + options.poll_ms;
			}
			streams_look();
			streams_ack();
			if (rescue_wanted)
			{
				rescue_wanted = false;
				dispatch_lapsed();
			}
			if (claim_wanted)
			{
				claim_wanted = false;
				push();
			}
			if (beat_at - now < timeout)
				timeout = (int) (beat_at - now);
			if (poll_at - now < timeout)
				timeout = (int) (poll_at - now);
		}

		/* what was put into the streams goes out here, and new ones may come */
		http_run();
		if (timeout < 0 || (db_listen_fd() >= 0 && streams_look_again()))
			timeout = 0;

		fds = realloc(fds, 3 * sizeof(struct pollfd));
		if (fds == NULL)
			die("out of memory");
		fds[0] = (struct pollfd) {http_poll_fd(), POLLIN, 0};
		fds[1] = (struct pollfd) {db_listen_fd(), POLLIN, 0};
		fds[2] = (struct pollfd) {signals, POLLIN, 0};
		nfds = workers_poll_fds(&fds, 3);
		if (poll(fds, nfds, http_timeout(timeout)) < 0 && errno != EINTR)
			die("poll: %s", strerror(errno));

		if (fds[1].revents != 0)
			db_notified();
		workers_read(fds + 3, nfds - 3);
		if (fds[2].revents != 0)
		{
			struct signalfd_siginfo info;

			while (read(signals, &info, sizeof(info)) == sizeof(info))
				stopping = stopping || info.ssi_signo != SIGCHLD;
			workers_reap();
		}
		http_run();
	}
	free(fds);
}

int
main(int argc, char **argv)
{
	int			signals;

	parse_options(argc, argv);
	signals = open_signals();
	if (signals < 0)
		die("signalfd: %s", strerror(errno));
	if (http_start() == NULL)
		die("cannot listen on port %d", options.port);
	say("listening on 127.0.0.1:%d", http_port());
	loop(signals);
	workers_release();
	http_stop();
	return 0;
}
