-- What the rows need in every database they use; :noop is the library.
CREATE SCHEMA bench;

CREATE FUNCTION bench.noop(deployment text, message_ids text[] DEFAULT NULL, generations integer[] DEFAULT NULL) RETURNS integer
AS :'noop', 'noop' LANGUAGE C VOLATILE PARALLEL UNSAFE;
CREATE FUNCTION bench.touch(name text, size bigint) RETURNS bigint
AS :'noop', 'touch' LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- how long one query takes in this session, in microseconds
CREATE FUNCTION bench.us(query text) RETURNS double precision LANGUAGE plpgsql AS $$
DECLARE t timestamptz;
BEGIN
	t := clock_timestamp();
	EXECUTE query;
	RETURN extract(epoch FROM clock_timestamp() - t) * 1000000;
END $$;

-- arm the turns (w1, m) .. (wn, m), each deployment its own conversation
CREATE PROCEDURE bench.arm(n integer, admission interval, silence interval) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 0 .. (n - 1) / 10000 LOOP
		PERFORM turn_liveness.arm_turn('w' || g, 'm', '{"platform": "api", "userId": "u1"}', admission, silence)
		FROM generate_series(i * 10000 + 1, least(n, (i + 1) * 10000)) g;
		COMMIT;
	END LOOP;
END $$;
