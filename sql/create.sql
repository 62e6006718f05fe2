--
-- The extension as an object: created, refused, dropped, created again.
--
\pset null '(null)'
SET client_min_messages = warning;
DROP EXTENSION turn_liveness;

-- a schema of that name that is there already is not taken over
CREATE SCHEMA turn_liveness;
\set VERBOSITY sqlstate
CREATE EXTENSION turn_liveness;
\set VERBOSITY default
DROP SCHEMA turn_liveness;

-- created and rolled back: nothing stays
BEGIN;
CREATE EXTENSION turn_liveness;
SELECT turn_liveness.arm_turn('create-1', 'm1');
ROLLBACK;
SELECT to_regnamespace('turn_liveness') IS NULL AS nothing_left;

CREATE EXTENSION turn_liveness;
SELECT e.extrelocatable, n.nspname
  FROM pg_extension e
  JOIN pg_namespace n ON n.oid = e.extnamespace
 WHERE e.extname = 'turn_liveness';

\set VERBOSITY sqlstate
-- once is enough
CREATE EXTENSION turn_liveness;
-- its place is fixed, and its parts cannot be taken out one by one
ALTER EXTENSION turn_liveness SET SCHEMA public;
DROP SCHEMA turn_liveness CASCADE;
DROP TABLE turn_liveness.turn CASCADE;
DROP FUNCTION turn_liveness.heartbeat(text, text[], integer[]);
\set VERBOSITY default

-- it works, and what it knows is gone when it is gone
SELECT turn_liveness.arm_turn('create-1', 'm1'), turn_liveness.arm_turn('create-1', 'm2');
SELECT turn_liveness.heartbeat('create-1');
SELECT turn_liveness.heartbeat('create-1');

-- a drop that is rolled back loses nothing
BEGIN;
DROP EXTENSION turn_liveness;
ROLLBACK;
SELECT turn_liveness.heartbeat('create-1');
SELECT turn_liveness.commit_terminal_reply('create-1', ARRAY['m2'], '{"content": "done"}');

DROP EXTENSION turn_liveness;
SELECT to_regnamespace('turn_liveness') IS NULL AS nothing_left;
SELECT count(*) FROM pg_proc WHERE probin LIKE '%turn_liveness%' AND pronamespace <> 'tl_test'::regnamespace;

-- created again in the same session: no count that a beat remembered, no turn, no reply of before
CREATE EXTENSION turn_liveness;
SELECT turn_liveness.heartbeat('create-1');
SELECT count(*) AS turns FROM turn_liveness.turns;
SELECT count(*) AS replies FROM turn_liveness.replies;
SELECT count(*) AS read FROM turn_liveness.read_replies(ARRAY['create-1']);
SELECT turn_liveness.arm_turn('create-1', 'm1');
SELECT turn_liveness.heartbeat('create-1');
SELECT turn_liveness.discharge_turn('create-1', 'm1');

-- nothing without a comment for \df+ and \dv+
SELECT p.proname AS function_without_comment FROM pg_proc p
 WHERE p.pronamespace = 'turn_liveness'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT c.relname AS view_without_comment FROM pg_class c
 WHERE c.relnamespace = 'turn_liveness'::regnamespace AND c.relkind = 'v' AND obj_description(c.oid, 'pg_class') IS NULL;
