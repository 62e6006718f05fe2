-- More rows than calls could make: copies of a row that the functions wrote.
-- bench.turn, bench.reply and bench.delivery hold it.
--
-- A copy is made for each number g from first to last; changes has an expression
-- over t, the row, and g for each column in which it differs.
CREATE FUNCTION bench.copies(kind text, first bigint, last bigint, changes jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	columns text;
BEGIN
	SELECT string_agg(coalesce(changes ->> attname, 't.' || quote_ident(attname)), ', ' ORDER BY attnum) INTO columns
	FROM pg_attribute
	WHERE attrelid = format('turn_liveness.%I', kind)::regclass AND attnum > 0 AND NOT attisdropped;
	EXECUTE format('INSERT INTO turn_liveness.%I SELECT %s FROM bench.%1$I t, generate_series(%3$s, %4$s::bigint) g',
				   kind, columns, first, last);
END $$;
