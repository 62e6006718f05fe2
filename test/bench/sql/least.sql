-- The least SQL that could answer a turn: a row while it is owed, a row with the
-- reply, each with its key.
--
-- arm     inserts the turn's row
-- commit  one statement: deletes it and inserts the reply
--
-- It cannot say that a turn was answered, deliver a reply once, or fail a turn.
CREATE SCHEMA least;
CREATE TABLE least.turn (
	message_id text COLLATE "C", deployment text COLLATE "C",
	routing jsonb NOT NULL,
	PRIMARY KEY (message_id, deployment)
);
CREATE TABLE least.reply (
	reply_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	conversation_id text NOT NULL, payload jsonb NOT NULL
);
