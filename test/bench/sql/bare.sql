-- "The same row changes as bare prepared SQL": tables with the columns of ours
-- and their keys, no other index, no trigger, no notification.
--
-- arm     inserts the turn's row
-- commit  one statement: takes the row from owed to ended, inserts the reply
--         and its delivery row
-- claim, acknowledge   each one update of the delivery rows, found by key
--
-- Every column that our functions fill is filled with a value of the same
-- width; what they compute (clocks, hashes, the routing merged into the reply)
-- is a constant here.
CREATE SCHEMA bare;
CREATE TABLE bare.turn (LIKE turn_liveness.turn INCLUDING DEFAULTS INCLUDING STORAGE,
	PRIMARY KEY (message_id, deployment)) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);
CREATE TABLE bare.reply (LIKE turn_liveness.reply INCLUDING DEFAULTS INCLUDING STORAGE,
	PRIMARY KEY (reply_id));
CREATE TABLE bare.delivery (LIKE turn_liveness.delivery INCLUDING DEFAULTS INCLUDING STORAGE,
	PRIMARY KEY (reply_id)) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);
CREATE SEQUENCE bare.reply_id_seq AS bigint;
