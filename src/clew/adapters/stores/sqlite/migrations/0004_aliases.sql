-- The ids of somebody whom a platform calls by several, and the one name they are kept under. A number may pass on.
CREATE TABLE alias(
  platform TEXT NOT NULL, external_id TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY(platform, external_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX alias_name ON alias(platform, name);
