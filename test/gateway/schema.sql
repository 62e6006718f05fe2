-- The gateways' own table: the messages, as their clients sent them. A gateway
-- keeps each in the transaction that arms its turn, so that any of them can give
-- it to another worker later.
CREATE TABLE gateway_message (
	deployment text,
	message_id text,
	body jsonb NOT NULL,
	PRIMARY KEY (deployment, message_id)
);
