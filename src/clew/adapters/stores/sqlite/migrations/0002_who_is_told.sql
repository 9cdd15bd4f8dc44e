-- Which account sent a message, so that a reply is told to nobody who may not see it; and why a reply was not told.
ALTER TABLE inbox ADD COLUMN sent_by TEXT;
ALTER TABLE outbox ADD COLUMN reason TEXT;
CREATE TRIGGER inbox_sent_by BEFORE UPDATE OF sent_by ON inbox WHEN NEW.sent_by IS NOT OLD.sent_by
BEGIN SELECT RAISE(ABORT, 'clew: who sent a message does not change'); END;
