-- Facts that are remembered from one session to the next. Nothing wrote the table that the first schema had for them.
DROP TABLE fact;
CREATE TABLE fact(
  id INTEGER PRIMARY KEY AUTOINCREMENT CHECK(id > 0), owner TEXT NOT NULL REFERENCES principal(id),
  kind TEXT NOT NULL CHECK(kind IN ('user','work')), text TEXT NOT NULL, session_id TEXT, message INTEGER,
  confidence REAL NOT NULL, supersedes INTEGER REFERENCES fact(id), said_at INTEGER NOT NULL, created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX fact_owner ON fact(owner);
CREATE INDEX fact_supersedes ON fact(supersedes) WHERE supersedes IS NOT NULL;
CREATE INDEX fact_session ON fact(session_id) WHERE session_id IS NOT NULL;

-- What is left of a forgotten fact: a salted hash of its words, and the newest message of that moment.
CREATE TABLE forgotten(
  id INTEGER PRIMARY KEY CHECK(id > 0), owner TEXT NOT NULL REFERENCES principal(id), salt TEXT NOT NULL, sha256 TEXT NOT NULL,
  upto INTEGER NOT NULL, at INTEGER NOT NULL
) STRICT;
CREATE INDEX forgotten_owner ON forgotten(owner);
CREATE INDEX job_session ON job(session_id) WHERE session_id IS NOT NULL;

CREATE TRIGGER fact_new BEFORE INSERT ON fact BEGIN
  SELECT CASE
    WHEN NEW.id > 0 AND EXISTS (SELECT 1 FROM fact WHERE id = NEW.id) THEN RAISE(ABORT, 'clew: this fact exists')
    WHEN NEW.session_id IS NOT NULL AND EXISTS (SELECT 1 FROM purge WHERE session_id = NEW.session_id)
      THEN RAISE(ABORT, 'clew: this session was deleted')
    WHEN NEW.supersedes IS NOT NULL AND NOT EXISTS (
      SELECT 1 FROM fact WHERE id = NEW.supersedes AND said_at <= NEW.said_at)
      OR EXISTS (SELECT 1 FROM fact WHERE supersedes = NEW.supersedes)
      THEN RAISE(ABORT, 'clew: a fact supersedes an older one, once')
  END;
END;
CREATE TRIGGER fact_written_once BEFORE UPDATE ON fact
WHEN NEW.id IS NOT OLD.id OR NEW.owner IS NOT OLD.owner OR NEW.kind IS NOT OLD.kind OR NEW.text IS NOT OLD.text
  OR NEW.session_id IS NOT OLD.session_id OR NEW.message IS NOT OLD.message OR NEW.confidence IS NOT OLD.confidence
  OR NEW.said_at IS NOT OLD.said_at OR NEW.created_at IS NOT OLD.created_at
BEGIN SELECT RAISE(ABORT, 'clew: a fact is superseded, or forgotten'); END;
CREATE TRIGGER forgotten_new BEFORE INSERT ON forgotten WHEN NEW.id > 0 AND EXISTS (SELECT 1 FROM forgotten WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'clew: what was forgotten stays forgotten'); END;
CREATE TRIGGER forgotten_stays BEFORE DELETE ON forgotten
BEGIN SELECT RAISE(ABORT, 'clew: what was forgotten stays forgotten'); END;
CREATE TRIGGER forgotten_written_once BEFORE UPDATE ON forgotten
BEGIN SELECT RAISE(ABORT, 'clew: what was forgotten stays forgotten'); END;
