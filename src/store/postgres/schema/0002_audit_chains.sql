-- What ties events of the audit log to each other (src/store/chain/). Where an event stands: in whose chain, as which of
-- its events, and its link. Events from before there were chains stand in none.
ALTER TABLE audit ADD COLUMN writer int4, ADD COLUMN seq int8, ADD COLUMN link bytea;
CREATE UNIQUE INDEX audit_by_chain ON audit (writer, seq);

-- Both ends of each chain, signed, in the record; the numbers of the events there beside it. Whoever writes an event takes
-- any chain that nobody holds at the moment, so there are as many as ever wrote at once.
CREATE TABLE audit_chains (
    writer     int4 PRIMARY KEY,
    base_seq   int8 NOT NULL,
    head_seq   int8 NOT NULL,
    record     bytea NOT NULL
) WITH (fillfactor = 25);
