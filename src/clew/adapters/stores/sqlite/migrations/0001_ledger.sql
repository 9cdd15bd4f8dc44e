-- The ledger. Rules that hold for every writer, this program or another, are triggers: see the second half.
-- Times are milliseconds since 1970-01-01 UTC. Tables keyed by text are WITHOUT ROWID, so that no hidden rowid
-- lets INSERT OR REPLACE or UPDATE OR REPLACE remove a row behind the guards; the others are keyed by a positive id,
-- because a BEFORE INSERT trigger sees -1 where the id is not given. Lists are cut into pairs: a longer `IN` makes a
-- table of its values for every row that is checked, which took a quarter of the time of a commit.

CREATE TABLE principal(
  id TEXT PRIMARY KEY, name TEXT NOT NULL,
  role TEXT NOT NULL CHECK(role IN ('owner','admin') OR role IN ('user','group'))
) STRICT, WITHOUT ROWID;
INSERT INTO principal(id, name, role) VALUES('local', 'local', 'owner');

CREATE TABLE identity(
  platform TEXT NOT NULL, account TEXT NOT NULL, external_id TEXT NOT NULL,
  principal TEXT NOT NULL REFERENCES principal(id),
  PRIMARY KEY(platform, account, external_id)
) STRICT, WITHOUT ROWID;

-- The frozen prefix of requests; on the session row it made every turn 17-30 % slower.
CREATE TABLE prefix(
  sha256 TEXT PRIMARY KEY, system_prompt TEXT NOT NULL, tools TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE session(
  id TEXT PRIMARY KEY, owner TEXT NOT NULL REFERENCES principal(id), surface TEXT NOT NULL,
  title TEXT, model TEXT, cwd TEXT, settings TEXT NOT NULL DEFAULT '{}', prefix_sha256 TEXT REFERENCES prefix(sha256),
  parent_session TEXT, parent_branch INTEGER, parent_seq INTEGER,
  origin TEXT NOT NULL CHECK(origin IN ('new','reset') OR origin IN ('fork','import') OR origin = 'side'),
  head_branch INTEGER, head_seq INTEGER NOT NULL DEFAULT 0, summary_id INTEGER,
  version INTEGER NOT NULL DEFAULT 0, epoch INTEGER NOT NULL DEFAULT 1,
  lease_owner TEXT, lease_beat INTEGER NOT NULL DEFAULT 0,
  last_active_at INTEGER NOT NULL, created_at INTEGER NOT NULL, ended_at INTEGER, end_reason TEXT, archived_at INTEGER,
  temporary INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX session_recent ON session(owner, last_active_at DESC, id DESC) WHERE archived_at IS NULL;
CREATE INDEX session_archived ON session(owner, last_active_at DESC, id DESC) WHERE archived_at IS NOT NULL;
CREATE INDEX session_parent ON session(parent_session) WHERE parent_session IS NOT NULL;
CREATE INDEX session_forked ON session(parent_branch) WHERE parent_branch IS NOT NULL;
CREATE INDEX session_prefix ON session(prefix_sha256) WHERE prefix_sha256 IS NOT NULL;
CREATE INDEX session_titled ON session(title COLLATE NOCASE) WHERE title IS NOT NULL;
CREATE INDEX session_leased ON session(lease_owner) WHERE lease_owner IS NOT NULL;

CREATE TABLE share(
  session_id TEXT NOT NULL REFERENCES session(id), principal TEXT NOT NULL REFERENCES principal(id),
  may TEXT NOT NULL CHECK(may IN ('read','write')), PRIMARY KEY(session_id, principal)
) STRICT, WITHOUT ROWID;
CREATE INDEX share_principal ON share(principal);

CREATE TABLE conversation(
  id INTEGER PRIMARY KEY CHECK(id > 0), route_key TEXT NOT NULL UNIQUE, surface TEXT NOT NULL, origin TEXT NOT NULL DEFAULT '{}',
  session_id TEXT REFERENCES session(id), version INTEGER NOT NULL DEFAULT 1, settings TEXT NOT NULL DEFAULT '{}'
) STRICT;

CREATE TABLE branch(
  id INTEGER PRIMARY KEY AUTOINCREMENT CHECK(id > 0), session_id TEXT NOT NULL REFERENCES session(id),
  parent_branch INTEGER REFERENCES branch(id), parent_seq INTEGER NOT NULL DEFAULT 0,
  CHECK(parent_branch IS NOT NULL OR parent_seq = 0)
) STRICT;
CREATE INDEX branch_session ON branch(session_id);
CREATE INDEX branch_parent ON branch(parent_branch) WHERE parent_branch IS NOT NULL;

-- text: what was said, the only copy. body: JSON of the rest, NULL when there is none.
CREATE TABLE message(
  id INTEGER PRIMARY KEY AUTOINCREMENT CHECK(id > 0), branch INTEGER NOT NULL REFERENCES branch(id), seq INTEGER NOT NULL CHECK(seq > 0),
  turn INTEGER NOT NULL, step INTEGER NOT NULL,
  role TEXT NOT NULL CHECK(role IN ('user','assistant') OR role IN ('tool','event')), actor TEXT NOT NULL,
  status TEXT NOT NULL CHECK(status IN ('ok','interrupted') OR status IN ('error','refused') OR status IN ('unknown','not_run')),
  body BLOB, text TEXT NOT NULL, created_at INTEGER NOT NULL,
  UNIQUE(branch, seq)
) STRICT;

CREATE TABLE blob(
  id INTEGER PRIMARY KEY CHECK(id > 0), sha256 TEXT NOT NULL UNIQUE, media_type TEXT NOT NULL, bytes BLOB NOT NULL
) STRICT;

-- Which messages name which blobs: who may read a blob, and when it may go.
CREATE TABLE attachment(
  message INTEGER NOT NULL REFERENCES message(id), sha256 TEXT NOT NULL REFERENCES blob(sha256),
  PRIMARY KEY(message, sha256)
) STRICT, WITHOUT ROWID;
CREATE INDEX attachment_blob ON attachment(sha256);

CREATE TABLE turn(
  session_id TEXT NOT NULL REFERENCES session(id), turn INTEGER NOT NULL,
  conversation INTEGER REFERENCES conversation(id), principal TEXT NOT NULL, model TEXT,
  state TEXT NOT NULL CHECK(state IN ('running','waiting') OR state IN ('done','failed') OR state IN ('interrupted','abandoned')),
  crashes INTEGER NOT NULL DEFAULT 0, epoch INTEGER NOT NULL,
  started_at INTEGER NOT NULL, finished_at INTEGER, end_reason TEXT, error TEXT,
  PRIMARY KEY(session_id, turn)
) STRICT, WITHOUT ROWID;
CREATE INDEX turn_open ON turn(state, session_id) WHERE state IN ('running','waiting');

CREATE TABLE tool_call(
  id TEXT PRIMARY KEY, session_id TEXT NOT NULL, turn INTEGER NOT NULL, step INTEGER NOT NULL, n INTEGER NOT NULL,
  provider_id TEXT NOT NULL, name TEXT NOT NULL, args_sha256 TEXT NOT NULL,
  state TEXT NOT NULL CHECK(state IN ('planned','started') OR state IN ('finished','unknown') OR state = 'not_run'),
  safe_to_repeat INTEGER NOT NULL, epoch INTEGER NOT NULL,
  planned_at INTEGER NOT NULL, started_at INTEGER, finished_at INTEGER,
  UNIQUE(session_id, turn, step, n),
  FOREIGN KEY(session_id, turn) REFERENCES turn(session_id, turn)
) STRICT, WITHOUT ROWID;

CREATE TABLE summary(
  id INTEGER PRIMARY KEY AUTOINCREMENT CHECK(id > 0), session_id TEXT NOT NULL REFERENCES session(id),
  branch INTEGER NOT NULL REFERENCES branch(id), upto_seq INTEGER NOT NULL, previous INTEGER REFERENCES summary(id),
  text TEXT NOT NULL, focus TEXT, model TEXT, tokens_before INTEGER NOT NULL, tokens_after INTEGER NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX summary_session ON summary(session_id);
CREATE INDEX summary_previous ON summary(previous) WHERE previous IS NOT NULL;

CREATE TABLE op(
  session_id TEXT NOT NULL REFERENCES session(id), version INTEGER NOT NULL, kind TEXT NOT NULL,
  from_branch INTEGER, from_seq INTEGER NOT NULL, to_branch INTEGER NOT NULL, to_seq INTEGER NOT NULL,
  from_summary INTEGER, to_summary INTEGER, epoch INTEGER NOT NULL,
  idempotency_key TEXT, payload_hash BLOB, actor TEXT NOT NULL, at INTEGER NOT NULL,
  PRIMARY KEY(session_id, version)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX op_key ON op(session_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE inbox(
  id INTEGER PRIMARY KEY CHECK(id > 0), account TEXT NOT NULL, external_key TEXT NOT NULL,
  conversation INTEGER NOT NULL REFERENCES conversation(id), n INTEGER NOT NULL,
  session_id TEXT NOT NULL REFERENCES session(id), principal TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,
  state TEXT NOT NULL CHECK(state IN ('queued','consumed') OR state IN ('cancelled','superseded') OR state = 'refused'),
  turn INTEGER, epoch INTEGER, at INTEGER NOT NULL, settled_at INTEGER, settled_by TEXT,
  UNIQUE(account, external_key), UNIQUE(conversation, n)
) STRICT;
CREATE INDEX inbox_queued ON inbox(session_id, n) WHERE state = 'queued';

CREATE TABLE outbox(
  id INTEGER PRIMARY KEY CHECK(id > 0), session_id TEXT NOT NULL REFERENCES session(id),
  conversation INTEGER NOT NULL REFERENCES conversation(id), turn INTEGER NOT NULL,
  message INTEGER REFERENCES message(id), body TEXT, part INTEGER NOT NULL, kind TEXT NOT NULL CHECK(kind IN ('reply','preview') OR kind = 'notice'),
  state TEXT NOT NULL CHECK(state IN ('pending','sending') OR state IN ('sent','unknown') OR state = 'failed'),
  key TEXT NOT NULL UNIQUE, platform_id TEXT, owner TEXT, beat INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0, next_at INTEGER NOT NULL
) STRICT;
CREATE INDEX outbox_due ON outbox(next_at) WHERE state = 'pending' OR state = 'sending' OR state = 'unknown';
CREATE INDEX outbox_message ON outbox(message) WHERE message IS NOT NULL;
CREATE INDEX outbox_session ON outbox(session_id);

CREATE TABLE approval(
  id TEXT PRIMARY KEY, call TEXT NOT NULL REFERENCES tool_call(id), n INTEGER NOT NULL, args_sha256 TEXT NOT NULL, asker TEXT NOT NULL,
  state TEXT NOT NULL CHECK(state IN ('pending','approved') OR state IN ('denied','expired') OR state = 'consumed'),
  decided_by TEXT, decided_at INTEGER, expires_at INTEGER NOT NULL, epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX approval_call ON approval(call, n);

CREATE TABLE usage(
  id INTEGER PRIMARY KEY CHECK(id > 0), owner TEXT NOT NULL, session_id TEXT NOT NULL, turn INTEGER NOT NULL, step INTEGER NOT NULL,
  attempt INTEGER NOT NULL, task TEXT NOT NULL, model TEXT NOT NULL,
  state TEXT NOT NULL CHECK(state IN ('reserved','settled') OR state IN ('estimated','failed')),
  input INTEGER NOT NULL, output INTEGER NOT NULL, cache_read INTEGER NOT NULL, cache_write INTEGER NOT NULL,
  cost_usd REAL, price_source TEXT, at INTEGER NOT NULL
) STRICT;
CREATE INDEX usage_session ON usage(session_id);
CREATE INDEX usage_reserved ON usage(session_id) WHERE state = 'reserved';
CREATE INDEX usage_owner ON usage(owner, at);

CREATE TABLE job(
  id INTEGER PRIMARY KEY CHECK(id > 0), kind TEXT NOT NULL, key TEXT NOT NULL, owner TEXT NOT NULL, session_id TEXT,
  conversation INTEGER REFERENCES conversation(id), upto INTEGER,
  payload TEXT NOT NULL, state TEXT NOT NULL, lease_owner TEXT, beat INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0, next_at INTEGER NOT NULL, error TEXT,
  UNIQUE(kind, key)
) STRICT;
CREATE INDEX job_due ON job(kind, next_at) WHERE state = 'queued';
CREATE INDEX job_owner ON job(owner, kind) WHERE state = 'queued';

CREATE TABLE purge(
  session_id TEXT PRIMARY KEY REFERENCES session(id), actor TEXT NOT NULL, at INTEGER NOT NULL,
  done INTEGER NOT NULL DEFAULT 0, counts TEXT NOT NULL DEFAULT '{}'
) STRICT, WITHOUT ROWID;

CREATE TABLE fact(
  id INTEGER PRIMARY KEY CHECK(id > 0), owner TEXT NOT NULL REFERENCES principal(id), text TEXT NOT NULL,
  session_id TEXT, message INTEGER, confidence REAL, supersedes INTEGER REFERENCES fact(id),
  created_at INTEGER NOT NULL, forgotten_at INTEGER
) STRICT;
CREATE INDEX fact_owner ON fact(owner);

-- Public read views: other programs rely on these names.
CREATE VIEW v_session AS
  SELECT s.id, s.parent_session AS parent_id, s.origin,
         s.ended_at IS NULL AND s.archived_at IS NULL AS live, s.end_reason, s.title, s.surface, s.owner, s.model,
         s.created_at, s.last_active_at
  FROM session s WHERE NOT EXISTS (SELECT 1 FROM purge p WHERE p.session_id = s.id);

CREATE VIEW v_message AS
  WITH RECURSIVE
  here(session_id, branch, low, high) AS (
    SELECT s.id, s.head_branch, coalesce(b.parent_seq, 0), s.head_seq FROM v_session v
      JOIN session s ON s.id = v.id JOIN branch b ON b.id = s.head_branch
    UNION ALL
    SELECT h.session_id, p.id, p.parent_seq, h.low FROM here h
      JOIN branch c ON c.id = h.branch JOIN branch p ON p.id = c.parent_branch
  ),
  tree(session_id, branch) AS (
    SELECT h.session_id, h.branch FROM here h
    UNION SELECT b.session_id, b.id FROM branch b JOIN v_session v ON v.id = b.session_id
  )
  SELECT t.session_id, m.seq AS position, m.role, m.text,
         (SELECT group_concat(c.value ->> 'id', ' ') FROM json_each(CAST(m.body AS TEXT), '$.calls') c) AS call_ids,
         coalesce(m.seq <= h.high, 0) AS on_path,
         coalesce(m.seq <= h.high AND NOT EXISTS (
           SELECT 1 FROM session s JOIN summary y ON y.id = s.summary_id WHERE s.id = t.session_id AND m.seq <= y.upto_seq), 0) AS in_context,
         m.created_at
  FROM tree t JOIN session ts ON ts.id = t.session_id JOIN branch tb ON tb.id = t.branch
  LEFT JOIN here h ON h.session_id = t.session_id AND h.branch = t.branch
  JOIN message m ON m.branch = t.branch AND (tb.session_id = t.session_id OR m.seq <= h.high);

-- The rules of the ledger, kept by the database itself.

-- People and their identities are not replaced behind anybody's back. ----------------------------------------
CREATE TRIGGER principal_new BEFORE INSERT ON principal WHEN EXISTS (SELECT 1 FROM principal WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'clew: this principal exists'); END;
CREATE TRIGGER principal_identity BEFORE UPDATE OF id ON principal WHEN NEW.id IS NOT OLD.id
BEGIN SELECT RAISE(ABORT, 'clew: a principal keeps its identity'); END;
CREATE TRIGGER principal_stays BEFORE DELETE ON principal BEGIN SELECT RAISE(ABORT, 'clew: principals are not deleted'); END;
CREATE TRIGGER identity_new BEFORE INSERT ON identity WHEN EXISTS (
  SELECT 1 FROM identity WHERE platform = NEW.platform AND account = NEW.account AND external_id = NEW.external_id)
BEGIN SELECT RAISE(ABORT, 'clew: this identity is somebody''s already'); END;
CREATE TRIGGER identity_written_once BEFORE UPDATE ON identity
BEGIN SELECT RAISE(ABORT, 'clew: an identity is taken back before it is given to another'); END;

-- A session's first state is empty; its first op gives it a head. -------------------------------------------
CREATE TRIGGER session_starts_empty BEFORE INSERT ON session BEGIN
  SELECT CASE
    WHEN EXISTS (SELECT 1 FROM session WHERE id = NEW.id) THEN RAISE(ABORT, 'clew: this session exists')
    WHEN NEW.version <> 0 OR NEW.epoch <> 1 OR NEW.head_branch IS NOT NULL OR NEW.head_seq <> 0 OR NEW.summary_id IS NOT NULL
      THEN RAISE(ABORT, 'clew: a session starts empty')
    WHEN (NEW.parent_branch IS NULL) <> (NEW.parent_seq IS NULL) OR NEW.parent_branch IS NOT NULL AND NOT EXISTS (
      SELECT 1 FROM session p JOIN message m ON m.branch = NEW.parent_branch AND m.seq = NEW.parent_seq
        JOIN branch b ON b.id = m.branch
      WHERE p.id = NEW.parent_session AND p.owner = NEW.owner AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = p.id)
        AND (b.session_id = p.id OR EXISTS (
          WITH RECURSIVE up(branch, high) AS (
            SELECT p.parent_branch, p.parent_seq
            UNION ALL SELECT c.parent_branch, min(c.parent_seq, u.high) FROM up u JOIN branch c ON c.id = u.branch)
          SELECT 1 FROM up WHERE branch = m.branch AND high >= m.seq)))
      THEN RAISE(ABORT, 'clew: a fork starts in the tree of its owner''s session')
  END;
END;
CREATE TRIGGER session_identity BEFORE UPDATE OF id, owner, origin, parent_session, parent_branch, parent_seq, created_at, temporary ON session
WHEN NEW.id IS NOT OLD.id OR NEW.owner IS NOT OLD.owner OR NEW.origin IS NOT OLD.origin OR NEW.parent_session IS NOT OLD.parent_session
  OR NEW.parent_branch IS NOT OLD.parent_branch OR NEW.parent_seq IS NOT OLD.parent_seq OR NEW.created_at IS NOT OLD.created_at
  OR NEW.temporary IS NOT OLD.temporary
BEGIN SELECT RAISE(ABORT, 'clew: a session keeps its identity'); END;
CREATE TRIGGER session_head_by_op BEFORE UPDATE OF head_branch, head_seq, version, summary_id ON session
WHEN NEW.version <> OLD.version + 1 OR NOT EXISTS (
  SELECT 1 FROM op o WHERE o.session_id = NEW.id AND o.version = NEW.version AND o.from_branch IS OLD.head_branch
    AND o.from_seq = OLD.head_seq AND o.to_branch IS NEW.head_branch AND o.to_seq = NEW.head_seq
    AND o.from_summary IS OLD.summary_id AND o.to_summary IS NEW.summary_id AND o.epoch = OLD.epoch)
BEGIN SELECT RAISE(ABORT, 'clew: only an op moves the head'); END;
CREATE TRIGGER session_epoch_grows BEFORE UPDATE OF epoch ON session
WHEN NEW.epoch IS NOT OLD.epoch AND NEW.epoch IS NOT OLD.epoch + 1  -- `IS`: a NULL becomes the default under OR REPLACE
BEGIN SELECT RAISE(ABORT, 'clew: an epoch only grows, by one'); END;
CREATE TRIGGER session_forgotten BEFORE UPDATE OF title, cwd, settings, prefix_sha256 ON session
WHEN (NEW.title IS NOT NULL OR NEW.cwd IS NOT NULL OR NEW.settings <> '{}' OR NEW.prefix_sha256 IS NOT NULL)
  AND EXISTS (SELECT 1 FROM purge WHERE session_id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'clew: this session was deleted'); END;
CREATE TRIGGER session_stays BEFORE DELETE ON session BEGIN SELECT RAISE(ABORT, 'clew: sessions are not deleted'); END;

-- Ops name what they saw, and move the head. ----------------------------------------------------------------
CREATE TRIGGER op_fence BEFORE INSERT ON op BEGIN
  SELECT CASE
    WHEN NOT EXISTS (
      SELECT 1 FROM session s WHERE s.id = NEW.session_id AND s.version + 1 = NEW.version AND s.epoch = NEW.epoch
        AND s.head_branch IS NEW.from_branch AND s.head_seq = NEW.from_seq AND s.summary_id IS NEW.from_summary)
      THEN RAISE(ABORT, 'clew: stale')
    WHEN NEW.idempotency_key IS NOT NULL
      AND EXISTS (SELECT 1 FROM op WHERE session_id = NEW.session_id AND idempotency_key = NEW.idempotency_key)
      THEN RAISE(ABORT, 'clew: this key was used')
    WHEN EXISTS (SELECT 1 FROM purge WHERE session_id = NEW.session_id) AND NEW.kind <> 'purge'
      THEN RAISE(ABORT, 'clew: this session was deleted')
    WHEN (NEW.version = 1) <> (NEW.kind = 'create') THEN RAISE(ABORT, 'clew: a session is created once')
    -- Most ops are appends: they are judged here, and no further question is asked of them.
    WHEN NEW.kind = 'append' OR NEW.kind = 'recover' AND NEW.to_seq <> NEW.from_seq THEN CASE
      WHEN NEW.to_summary IS NOT NEW.from_summary THEN RAISE(ABORT, 'clew: this op leaves the summary alone')
      WHEN NEW.to_seq <= NEW.from_seq OR NOT EXISTS (
        SELECT 1 FROM branch b WHERE b.id = NEW.to_branch AND b.session_id = NEW.session_id
          AND coalesce((SELECT max(seq) FROM message WHERE branch = b.id), b.parent_seq) = NEW.from_seq
          AND (b.id = NEW.from_branch OR b.parent_branch = NEW.from_branch AND b.parent_seq = NEW.from_seq))
        THEN RAISE(ABORT, 'clew: an append continues the head')
    END
    WHEN (NEW.to_branch IS NOT NEW.from_branch OR NEW.to_seq <> NEW.from_seq)
      AND NEW.kind NOT IN ('create','undo','redo','retry','resume','import')
      THEN RAISE(ABORT, 'clew: this op leaves the head alone')
    WHEN NEW.to_summary IS NOT NEW.from_summary
      AND NEW.kind NOT IN ('create','compact','expand','undo','redo','retry','resume','import')
      THEN RAISE(ABORT, 'clew: this op leaves the summary alone')
    WHEN (NEW.to_branch IS NOT NEW.from_branch OR NEW.to_seq <> NEW.from_seq) AND NOT EXISTS (
      SELECT 1 FROM branch b JOIN session s ON s.id = NEW.session_id WHERE b.id = NEW.to_branch
        AND (NEW.to_seq = 0 AND b.parent_branch IS NULL
          OR NEW.to_seq > b.parent_seq AND EXISTS (SELECT 1 FROM message WHERE branch = b.id AND seq = NEW.to_seq))
        AND (b.session_id = s.id OR EXISTS (
          WITH RECURSIVE up(branch, high) AS (
            SELECT s.parent_branch, s.parent_seq
            UNION ALL SELECT c.parent_branch, min(c.parent_seq, u.high) FROM up u JOIN branch c ON c.id = u.branch)
          SELECT 1 FROM up WHERE branch = b.id AND high >= NEW.to_seq)))
      THEN RAISE(ABORT, 'clew: a head stands on a message of its own tree')
    WHEN NEW.to_summary IS NOT NULL
      AND (NEW.to_summary IS NOT NEW.from_summary OR NEW.to_branch IS NOT NEW.from_branch OR NEW.to_seq <> NEW.from_seq)
      AND NOT EXISTS (
        WITH RECURSIVE path(branch, high) AS (
          SELECT NEW.to_branch, NEW.to_seq
          UNION ALL SELECT c.parent_branch, min(c.parent_seq, p.high) FROM path p JOIN branch c ON c.id = p.branch)
        SELECT 1 FROM summary y JOIN path p ON p.branch = y.branch AND p.high >= y.upto_seq
        WHERE y.id = NEW.to_summary AND y.session_id = NEW.session_id)
      THEN RAISE(ABORT, 'clew: a summary of the session stands for messages of its path')
  END;
END;
CREATE TRIGGER op_moves AFTER INSERT ON op BEGIN
  UPDATE session SET head_branch = NEW.to_branch, head_seq = NEW.to_seq, version = NEW.version, summary_id = NEW.to_summary,
    last_active_at = CASE WHEN NEW.to_branch IS NEW.from_branch AND NEW.to_seq = NEW.from_seq AND NEW.version > 1
                          THEN last_active_at ELSE max(last_active_at, NEW.at) END
  WHERE id = NEW.session_id;
END;
CREATE TRIGGER op_written_once BEFORE UPDATE ON op BEGIN SELECT RAISE(ABORT, 'clew: append-only'); END;
CREATE TRIGGER op_stays BEFORE DELETE ON op BEGIN SELECT RAISE(ABORT, 'clew: append-only'); END;

-- Messages follow their op: the next seq of the head's branch, never past the head. -------------------------
CREATE TRIGGER message_follows_op BEFORE INSERT ON message BEGIN
  SELECT CASE
    WHEN NEW.id > 0 AND EXISTS (SELECT 1 FROM message WHERE id = NEW.id) THEN RAISE(ABORT, 'clew: append-only')
    WHEN NOT EXISTS (
      SELECT 1 FROM branch b JOIN session s ON s.id = b.session_id WHERE b.id = NEW.branch
        AND s.head_branch = NEW.branch AND NEW.seq <= s.head_seq
        AND NEW.seq = coalesce((SELECT max(seq) FROM message WHERE branch = NEW.branch), b.parent_seq) + 1)
      THEN RAISE(ABORT, 'clew: a message follows its op')
  END;
END;
CREATE TRIGGER message_written_once BEFORE UPDATE ON message BEGIN SELECT RAISE(ABORT, 'clew: append-only'); END;
CREATE TRIGGER message_stays BEFORE DELETE ON message BEGIN
  SELECT CASE
    WHEN NOT EXISTS (SELECT 1 FROM branch b JOIN purge p ON p.session_id = b.session_id WHERE b.id = OLD.branch)
      THEN RAISE(ABORT, 'clew: append-only')
    WHEN EXISTS (
      WITH RECURSIVE down(branch, seq) AS (
        SELECT OLD.branch, OLD.seq
        UNION SELECT b.id, 0 FROM down d JOIN branch b ON b.parent_branch = d.branch AND b.parent_seq >= d.seq)
      SELECT 1 FROM down d JOIN session s ON s.parent_branch = d.branch AND s.parent_seq >= d.seq
      WHERE NOT EXISTS (SELECT 1 FROM purge WHERE session_id = s.id))
      THEN RAISE(ABORT, 'clew: a fork still reads this message')
  END;
END;

CREATE TRIGGER branch_grows_from_head BEFORE INSERT ON branch BEGIN
  SELECT CASE
    WHEN NEW.id > 0 AND EXISTS (SELECT 1 FROM branch WHERE id = NEW.id) THEN RAISE(ABORT, 'clew: append-only')
    WHEN NOT EXISTS (
      SELECT 1 FROM session s WHERE s.id = NEW.session_id AND s.head_branch IS NEW.parent_branch AND s.head_seq = NEW.parent_seq)
      THEN RAISE(ABORT, 'clew: a branch starts at the head of its session')
    WHEN NEW.parent_seq > 0 AND NOT EXISTS (SELECT 1 FROM message WHERE branch = NEW.parent_branch AND seq = NEW.parent_seq)
      THEN RAISE(ABORT, 'clew: a branch starts at a message')
  END;
END;
CREATE TRIGGER branch_written_once BEFORE UPDATE ON branch BEGIN SELECT RAISE(ABORT, 'clew: append-only'); END;
CREATE TRIGGER branch_stays BEFORE DELETE ON branch BEGIN SELECT RAISE(ABORT, 'clew: append-only'); END;

CREATE TRIGGER summary_new BEFORE INSERT ON summary BEGIN
  SELECT CASE
    WHEN NEW.id > 0 AND EXISTS (SELECT 1 FROM summary WHERE id = NEW.id) THEN RAISE(ABORT, 'clew: append-only')
    WHEN NOT EXISTS (SELECT 1 FROM session WHERE id = NEW.session_id)
      OR NEW.previous IS NOT NULL AND NOT EXISTS (SELECT 1 FROM summary WHERE id = NEW.previous AND session_id = NEW.session_id)
      THEN RAISE(ABORT, 'clew: a summary follows one of its own session')
    WHEN EXISTS (SELECT 1 FROM purge WHERE session_id = NEW.session_id) THEN RAISE(ABORT, 'clew: this session was deleted')
  END;
END;
CREATE TRIGGER summary_written_once BEFORE UPDATE ON summary BEGIN SELECT RAISE(ABORT, 'clew: append-only'); END;
CREATE TRIGGER summary_stays BEFORE DELETE ON summary WHEN NOT EXISTS (SELECT 1 FROM purge WHERE session_id = OLD.session_id)
BEGIN SELECT RAISE(ABORT, 'clew: append-only'); END;

CREATE TRIGGER prefix_new BEFORE INSERT ON prefix WHEN EXISTS (SELECT 1 FROM prefix WHERE sha256 = NEW.sha256)
BEGIN SELECT RAISE(ABORT, 'clew: append-only'); END;
CREATE TRIGGER prefix_written_once BEFORE UPDATE ON prefix BEGIN SELECT RAISE(ABORT, 'clew: append-only'); END;
CREATE TRIGGER prefix_stays BEFORE DELETE ON prefix WHEN EXISTS (SELECT 1 FROM session WHERE prefix_sha256 = OLD.sha256)
BEGIN SELECT RAISE(ABORT, 'clew: a session still uses this prefix'); END;

CREATE TRIGGER blob_new BEFORE INSERT ON blob
WHEN EXISTS (SELECT 1 FROM blob WHERE sha256 = NEW.sha256) OR NEW.id > 0 AND EXISTS (SELECT 1 FROM blob WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'clew: append-only'); END;
CREATE TRIGGER blob_written_once BEFORE UPDATE ON blob BEGIN SELECT RAISE(ABORT, 'clew: append-only'); END;
CREATE TRIGGER blob_stays BEFORE DELETE ON blob WHEN EXISTS (SELECT 1 FROM attachment WHERE sha256 = OLD.sha256)
BEGIN SELECT RAISE(ABORT, 'clew: a message still names this attachment'); END;
CREATE TRIGGER attachment_new BEFORE INSERT ON attachment BEGIN
  SELECT CASE
    WHEN EXISTS (SELECT 1 FROM attachment WHERE message = NEW.message AND sha256 = NEW.sha256) THEN RAISE(ABORT, 'clew: append-only')
    WHEN NOT EXISTS (SELECT 1 FROM message WHERE id = NEW.message AND instr(CAST(body AS TEXT), NEW.sha256))
      THEN RAISE(ABORT, 'clew: an attachment is named by its message')
  END;
END;
CREATE TRIGGER attachment_written_once BEFORE UPDATE ON attachment BEGIN SELECT RAISE(ABORT, 'clew: append-only'); END;
CREATE TRIGGER attachment_stays BEFORE DELETE ON attachment WHEN NOT EXISTS (
  SELECT 1 FROM message m JOIN branch b ON b.id = m.branch JOIN purge p ON p.session_id = b.session_id WHERE m.id = OLD.message)
BEGIN SELECT RAISE(ABORT, 'clew: append-only'); END;

-- Turns, calls, approvals, inbox: written under the session's epoch, moved only as the tables of states allow.
CREATE TRIGGER turn_new BEFORE INSERT ON turn BEGIN
  SELECT CASE
    WHEN EXISTS (SELECT 1 FROM turn WHERE session_id = NEW.session_id AND turn = NEW.turn) THEN RAISE(ABORT, 'clew: this turn exists')
    WHEN EXISTS (SELECT 1 FROM turn WHERE session_id = NEW.session_id AND state IN ('running','waiting'))
      THEN RAISE(ABORT, 'clew: a turn is open')
    WHEN NEW.epoch IS NOT (SELECT epoch FROM session WHERE id = NEW.session_id) THEN RAISE(ABORT, 'clew: fenced')
  END;
END;
CREATE TRIGGER turn_moves BEFORE UPDATE ON turn BEGIN
  SELECT CASE
    WHEN NEW.session_id IS NOT OLD.session_id OR NEW.turn IS NOT OLD.turn OR NEW.principal IS NOT OLD.principal
      OR NEW.conversation IS NOT OLD.conversation OR NEW.started_at IS NOT OLD.started_at
      THEN RAISE(ABORT, 'clew: a turn keeps its identity')
    WHEN NEW.epoch IS NOT (SELECT epoch FROM session WHERE id = NEW.session_id) THEN RAISE(ABORT, 'clew: fenced')
    WHEN OLD.state NOT IN ('running','waiting') AND NEW.state IS NOT OLD.state THEN RAISE(ABORT, 'clew: this turn has ended')
  END;
END;
CREATE TRIGGER turn_stays BEFORE DELETE ON turn BEGIN SELECT RAISE(ABORT, 'clew: turns are not deleted'); END;
CREATE TRIGGER call_new BEFORE INSERT ON tool_call BEGIN
  SELECT CASE
    WHEN EXISTS (SELECT 1 FROM tool_call WHERE id = NEW.id OR (session_id = NEW.session_id AND turn = NEW.turn AND step = NEW.step AND n = NEW.n))
      THEN RAISE(ABORT, 'clew: this call exists')
    WHEN NEW.state <> 'planned' THEN RAISE(ABORT, 'clew: a call is planned first')
    WHEN NOT EXISTS (SELECT 1 FROM turn WHERE session_id = NEW.session_id AND turn = NEW.turn)
      THEN RAISE(ABORT, 'clew: a call belongs to a turn')
    WHEN NEW.epoch IS NOT (SELECT epoch FROM session WHERE id = NEW.session_id) THEN RAISE(ABORT, 'clew: fenced')
  END;
END;
CREATE TRIGGER call_moves BEFORE UPDATE ON tool_call BEGIN
  SELECT CASE
    WHEN NEW.id IS NOT OLD.id OR NEW.session_id IS NOT OLD.session_id OR NEW.turn IS NOT OLD.turn OR NEW.step IS NOT OLD.step
      OR NEW.n IS NOT OLD.n OR NEW.args_sha256 IS NOT OLD.args_sha256 OR NEW.safe_to_repeat IS NOT OLD.safe_to_repeat
      OR (NEW.name IS NOT OLD.name OR NEW.provider_id IS NOT OLD.provider_id)
        AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = OLD.session_id)
      THEN RAISE(ABORT, 'clew: a call keeps its identity')
    WHEN NEW.epoch IS NOT (SELECT epoch FROM session WHERE id = NEW.session_id) THEN RAISE(ABORT, 'clew: fenced')
    WHEN NOT CASE OLD.state
        WHEN 'planned' THEN NEW.state IN ('started','not_run') OR NEW.state = 'finished'
        WHEN 'started' THEN NEW.state IN ('finished','unknown')
        WHEN 'unknown' THEN NEW.state IN ('started','finished')
        ELSE 0 END AND NOT (NEW.state IS OLD.state AND EXISTS (SELECT 1 FROM purge WHERE session_id = OLD.session_id))
      THEN RAISE(ABORT, 'clew: a call does not go back')
    WHEN NEW.state = 'started' AND EXISTS (SELECT 1 FROM approval WHERE call = NEW.id AND state = 'denied')
      AND NOT EXISTS (SELECT 1 FROM approval WHERE call = NEW.id AND state = 'consumed')
      THEN RAISE(ABORT, 'clew: this call was denied')
  END;
END;
CREATE TRIGGER call_stays BEFORE DELETE ON tool_call BEGIN SELECT RAISE(ABORT, 'clew: calls are not deleted'); END;
CREATE TRIGGER approval_new BEFORE INSERT ON approval BEGIN
  SELECT CASE
    WHEN EXISTS (SELECT 1 FROM approval WHERE id = NEW.id OR (call = NEW.call AND n = NEW.n)) THEN RAISE(ABORT, 'clew: this approval exists')
    WHEN NEW.state <> 'pending' THEN RAISE(ABORT, 'clew: an approval is asked first')
    WHEN NEW.epoch IS NOT (SELECT s.epoch FROM session s JOIN tool_call c ON c.session_id = s.id WHERE c.id = NEW.call)
      THEN RAISE(ABORT, 'clew: fenced')
  END;
END;
CREATE TRIGGER approval_moves BEFORE UPDATE ON approval BEGIN
  SELECT CASE
    WHEN NEW.id IS NOT OLD.id OR NEW.call IS NOT OLD.call OR NEW.n IS NOT OLD.n OR NEW.args_sha256 IS NOT OLD.args_sha256 OR NEW.asker IS NOT OLD.asker
      THEN RAISE(ABORT, 'clew: an approval keeps its identity')
    WHEN NEW.epoch IS NOT (SELECT s.epoch FROM session s JOIN tool_call c ON c.session_id = s.id WHERE c.id = NEW.call)
      THEN RAISE(ABORT, 'clew: fenced')
    WHEN NOT CASE OLD.state
        WHEN 'pending' THEN NEW.state IN ('approved','denied') OR NEW.state = 'expired'
        WHEN 'approved' THEN NEW.state IN ('consumed','expired')
        ELSE 0 END
      THEN RAISE(ABORT, 'clew: an approval is spent once')
  END;
END;
CREATE TRIGGER approval_stays BEFORE DELETE ON approval WHEN NOT EXISTS (
  SELECT 1 FROM tool_call c JOIN purge p ON p.session_id = c.session_id WHERE c.id = OLD.call)
BEGIN SELECT RAISE(ABORT, 'clew: approvals are not deleted'); END;
CREATE TRIGGER inbox_new BEFORE INSERT ON inbox BEGIN
  SELECT CASE
    WHEN NEW.id > 0 AND EXISTS (SELECT 1 FROM inbox WHERE id = NEW.id)
      OR EXISTS (SELECT 1 FROM inbox WHERE account = NEW.account AND external_key = NEW.external_key)
      OR EXISTS (SELECT 1 FROM inbox WHERE conversation = NEW.conversation AND n = NEW.n) THEN RAISE(ABORT, 'clew: received already')
    WHEN NEW.state <> 'queued' THEN RAISE(ABORT, 'clew: a message is queued first')
    WHEN NOT EXISTS (SELECT 1 FROM session WHERE id = NEW.session_id) THEN RAISE(ABORT, 'clew: a message is received for a session')
    WHEN EXISTS (SELECT 1 FROM purge WHERE session_id = NEW.session_id) THEN RAISE(ABORT, 'clew: this session was deleted')
  END;
END;
CREATE TRIGGER inbox_moves BEFORE UPDATE ON inbox
WHEN NEW.id IS NOT OLD.id OR NEW.account IS NOT OLD.account OR NEW.external_key IS NOT OLD.external_key
  OR NEW.conversation IS NOT OLD.conversation OR NEW.n IS NOT OLD.n OR NEW.session_id IS NOT OLD.session_id
  OR NEW.principal IS NOT OLD.principal OR NEW.kind IS NOT OLD.kind OR NEW.at IS NOT OLD.at
  OR (NEW.state IS NOT OLD.state AND (OLD.state <> 'queued' OR NEW.epoch IS NOT (SELECT epoch FROM session WHERE id = NEW.session_id)))
  OR ((NEW.turn IS NOT OLD.turn OR NEW.settled_at IS NOT OLD.settled_at OR NEW.settled_by IS NOT OLD.settled_by) AND NEW.state IS OLD.state)
  OR (NEW.body IS NOT OLD.body AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = OLD.session_id))
BEGIN SELECT RAISE(ABORT, 'clew: a received message is settled once'); END;
CREATE TRIGGER inbox_stays BEFORE DELETE ON inbox BEGIN SELECT RAISE(ABORT, 'clew: received messages are not deleted'); END;
CREATE TRIGGER outbox_new BEFORE INSERT ON outbox BEGIN
  SELECT CASE
    WHEN EXISTS (SELECT 1 FROM outbox WHERE key = NEW.key) OR NEW.id > 0 AND EXISTS (SELECT 1 FROM outbox WHERE id = NEW.id)
      THEN RAISE(ABORT, 'clew: this reply exists')
    WHEN EXISTS (SELECT 1 FROM purge WHERE session_id = NEW.session_id) THEN RAISE(ABORT, 'clew: this session was deleted')
  END;
END;
CREATE TRIGGER outbox_moves BEFORE UPDATE ON outbox
WHEN NEW.id IS NOT OLD.id OR NEW.session_id IS NOT OLD.session_id OR NEW.conversation IS NOT OLD.conversation
  OR NEW.turn IS NOT OLD.turn OR NEW.message IS NOT OLD.message OR NEW.body IS NOT OLD.body OR NEW.part IS NOT OLD.part
  OR NEW.kind IS NOT OLD.kind OR NEW.key IS NOT OLD.key
  OR (OLD.state = 'sent' AND NEW.state IS NOT OLD.state AND OLD.kind <> 'preview')  -- a preview is edited as long as it grows
BEGIN SELECT RAISE(ABORT, 'clew: a reply is sent once'); END;
CREATE TRIGGER outbox_stays BEFORE DELETE ON outbox WHEN NOT EXISTS (SELECT 1 FROM purge WHERE session_id = OLD.session_id)
BEGIN SELECT RAISE(ABORT, 'clew: replies are not deleted'); END;
CREATE TRIGGER conversation_new BEFORE INSERT ON conversation
WHEN EXISTS (SELECT 1 FROM conversation WHERE route_key = NEW.route_key) OR NEW.id > 0 AND EXISTS (SELECT 1 FROM conversation WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'clew: this conversation exists'); END;
CREATE TRIGGER conversation_moves BEFORE UPDATE ON conversation
WHEN NEW.id IS NOT OLD.id OR (NEW.version IS NOT OLD.version AND NEW.version IS NOT OLD.version + 1)
  OR ((NEW.session_id IS NOT OLD.session_id OR NEW.route_key IS NOT OLD.route_key) AND NEW.version IS NOT OLD.version + 1)
  OR (NEW.route_key IS NOT OLD.route_key AND EXISTS (SELECT 1 FROM conversation WHERE route_key = NEW.route_key))
BEGIN SELECT RAISE(ABORT, 'clew: a conversation moves by a new version'); END;
CREATE TRIGGER conversation_stays BEFORE DELETE ON conversation BEGIN SELECT RAISE(ABORT, 'clew: conversations are not deleted'); END;
CREATE TRIGGER purge_new BEFORE INSERT ON purge WHEN EXISTS (SELECT 1 FROM purge WHERE session_id = NEW.session_id)
BEGIN SELECT RAISE(ABORT, 'clew: this session was deleted'); END;
CREATE TRIGGER purge_moves BEFORE UPDATE OF session_id, actor, at ON purge
WHEN NEW.session_id IS NOT OLD.session_id OR NEW.actor IS NOT OLD.actor OR NEW.at IS NOT OLD.at
BEGIN SELECT RAISE(ABORT, 'clew: a deletion is not taken back'); END;
CREATE TRIGGER purge_stays BEFORE DELETE ON purge BEGIN SELECT RAISE(ABORT, 'clew: a deletion is not taken back'); END;
CREATE TRIGGER usage_new BEFORE INSERT ON usage WHEN NEW.id > 0 AND EXISTS (SELECT 1 FROM usage WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'clew: append-only'); END;
CREATE TRIGGER usage_stays BEFORE DELETE ON usage BEGIN SELECT RAISE(ABORT, 'clew: usage is not deleted'); END;
CREATE TRIGGER usage_moves BEFORE UPDATE ON usage
WHEN NEW.id IS NOT OLD.id OR NEW.owner IS NOT OLD.owner OR NEW.session_id IS NOT OLD.session_id OR OLD.state IN ('settled','failed')
BEGIN SELECT RAISE(ABORT, 'clew: usage is settled once'); END;
-- The lease of a compaction is taken over by an upsert, and is gone when it ends: it makes nothing safe.
CREATE TRIGGER job_new BEFORE INSERT ON job BEGIN
  SELECT CASE
    WHEN NEW.session_id IS NOT NULL AND EXISTS (SELECT 1 FROM purge WHERE session_id = NEW.session_id)
      THEN RAISE(ABORT, 'clew: this session was deleted')
    WHEN NEW.kind <> 'compaction' AND EXISTS (SELECT 1 FROM job WHERE kind = NEW.kind AND key = NEW.key)
      OR NEW.id > 0 AND EXISTS (SELECT 1 FROM job WHERE id = NEW.id)
      THEN RAISE(ABORT, 'clew: this job exists')
  END;
END;
CREATE TRIGGER job_moves BEFORE UPDATE ON job
WHEN NEW.id IS NOT OLD.id OR NEW.kind IS NOT OLD.kind OR NEW.key IS NOT OLD.key OR NEW.owner IS NOT OLD.owner
  OR NEW.session_id IS NOT OLD.session_id OR NEW.conversation IS NOT OLD.conversation OR NEW.next_at < OLD.next_at
  OR OLD.state IN ('done','cancelled') OR OLD.state IN ('failed','spent')
BEGIN SELECT RAISE(ABORT, 'clew: a job only goes forwards'); END;
CREATE TRIGGER job_stays BEFORE DELETE ON job
WHEN OLD.kind <> 'compaction' AND NOT EXISTS (SELECT 1 FROM purge WHERE session_id = OLD.session_id)
BEGIN SELECT RAISE(ABORT, 'clew: jobs are not deleted'); END;
CREATE TRIGGER fact_new BEFORE INSERT ON fact
WHEN NEW.session_id IS NOT NULL AND EXISTS (SELECT 1 FROM purge WHERE session_id = NEW.session_id)
BEGIN SELECT RAISE(ABORT, 'clew: this session was deleted'); END;
