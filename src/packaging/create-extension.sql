-- The first start of the image "server" runs this in the database that it creates.
CREATE EXTENSION turn_liveness;
