-- Times are wall-clock milliseconds, for display. Payloads are serialised proto messages.
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('writes_probed', 0);

CREATE TABLE projects (id TEXT PRIMARY KEY) WITHOUT ROWID;

-- Models, data sets and adapters.
CREATE TABLE resources (
  name TEXT PRIMARY KEY,
  kind INTEGER NOT NULL,
  uid TEXT NOT NULL UNIQUE,
  project TEXT NOT NULL REFERENCES projects(id),
  id TEXT NOT NULL,
  version INTEGER NOT NULL,
  create_ms INTEGER NOT NULL,
  payload BLOB NOT NULL,
  UNIQUE (project, kind, id)
);
CREATE INDEX resources_by_project ON resources (kind, project, uid);
CREATE INDEX resources_by_kind ON resources (kind, uid);

-- Jobs, evaluations and operations. States from 9 on are terminal.
CREATE TABLE works (
  uid TEXT PRIMARY KEY,
  kind INTEGER NOT NULL,
  project TEXT NOT NULL REFERENCES projects(id),
  id TEXT NOT NULL,
  name TEXT NOT NULL UNIQUE,
  version INTEGER NOT NULL,
  state INTEGER NOT NULL,
  reason INTEGER NOT NULL,
  failure_code INTEGER NOT NULL,
  failure_reason TEXT NOT NULL,
  failure_message TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  recovery_count INTEGER NOT NULL,
  failed_attempts INTEGER NOT NULL,
  backoff_steps INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  ranks INTEGER NOT NULL,
  device INTEGER NOT NULL,
  max_queue_ms INTEGER NOT NULL,
  max_attempt_ms INTEGER NOT NULL,
  max_total_ms INTEGER NOT NULL,
  total_ms INTEGER NOT NULL,
  queued_ms INTEGER NOT NULL,
  create_ms INTEGER NOT NULL,
  start_ms INTEGER NOT NULL,
  end_ms INTEGER NOT NULL,
  worker TEXT NOT NULL,
  resolved_device TEXT NOT NULL,
  checkpoint_step INTEGER NOT NULL,
  checkpoint_files BLOB NOT NULL,
  committed_lease TEXT NOT NULL,
  result BLOB NOT NULL,
  request_id TEXT NOT NULL
);
CREATE INDEX works_by_state ON works (project, kind, state, uid);
CREATE INDEX works_by_kind ON works (project, kind, uid);
CREATE INDEX works_active ON works (uid) WHERE state < 9;
CREATE UNIQUE INDEX works_by_commit ON works (committed_lease) WHERE committed_lease <> '';

CREATE TABLE work_payloads (
  work_uid TEXT PRIMARY KEY REFERENCES works(uid) ON DELETE CASCADE,
  project TEXT NOT NULL,
  spec BLOB NOT NULL,
  task BLOB NOT NULL
);

-- What unfinished work needs (no deleting) and what it will make (no taking); removed when it ends.
CREATE TABLE work_uses (
  name TEXT NOT NULL,
  work_uid TEXT NOT NULL REFERENCES works(uid) ON DELETE CASCADE,
  project TEXT NOT NULL,
  PRIMARY KEY (name, work_uid)
) WITHOUT ROWID;
CREATE INDEX work_uses_by_work ON work_uses (work_uid);
CREATE TABLE reservations (
  name TEXT PRIMARY KEY,
  work_uid TEXT NOT NULL REFERENCES works(uid) ON DELETE CASCADE,
  project TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX reservations_by_work ON reservations (work_uid);

-- One live lease of a piece of work at most: the key says so.
CREATE TABLE leases (
  uid TEXT PRIMARY KEY,
  work_uid TEXT NOT NULL UNIQUE REFERENCES works(uid),
  project TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  worker TEXT NOT NULL,
  instance_uuid TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  slots TEXT NOT NULL,
  stop INTEGER NOT NULL,
  acknowledged_item INTEGER NOT NULL,
  start_checkpoint_step INTEGER NOT NULL,
  running_ms INTEGER NOT NULL
);

CREATE TABLE events (
  work_uid TEXT NOT NULL REFERENCES works(uid) ON DELETE CASCADE,
  sequence INTEGER NOT NULL,
  project TEXT NOT NULL,
  time_ms INTEGER NOT NULL,
  level INTEGER NOT NULL,
  type TEXT NOT NULL,
  message TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  PRIMARY KEY (work_uid, sequence)
) WITHOUT ROWID;

CREATE TABLE metrics (
  work_uid TEXT NOT NULL REFERENCES works(uid) ON DELETE CASCADE,
  step INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  project TEXT NOT NULL,
  payload BLOB NOT NULL,
  PRIMARY KEY (work_uid, step, attempt)
) WITHOUT ROWID;
CREATE INDEX metrics_by_sequence ON metrics (work_uid, sequence);

CREATE TABLE checkpoints (
  work_uid TEXT NOT NULL REFERENCES works(uid) ON DELETE CASCADE,
  step INTEGER NOT NULL,
  project TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  create_ms INTEGER NOT NULL,
  files BLOB NOT NULL,
  validation_loss REAL,
  objects TEXT NOT NULL,
  PRIMARY KEY (work_uid, step)
) WITHOUT ROWID;

CREATE TABLE requests (
  project TEXT NOT NULL,
  request_id TEXT NOT NULL,
  hash TEXT NOT NULL,
  name TEXT NOT NULL,
  create_ms INTEGER NOT NULL,
  PRIMARY KEY (project, request_id)
) WITHOUT ROWID;

CREATE TABLE uploads (
  uid TEXT PRIMARY KEY,
  project TEXT NOT NULL,
  size_bytes INTEGER NOT NULL,
  sha256 TEXT NOT NULL,
  received_bytes INTEGER NOT NULL,
  finished INTEGER NOT NULL,
  object_uid TEXT NOT NULL,
  create_ms INTEGER NOT NULL,
  expire_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX uploads_by_expiry ON uploads (expire_ms);

CREATE TABLE objects (
  uid TEXT PRIMARY KEY,
  project TEXT NOT NULL,
  key TEXT NOT NULL UNIQUE,
  size_bytes INTEGER NOT NULL,
  sha256 TEXT NOT NULL,
  create_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX objects_by_age ON objects (create_ms);
CREATE TABLE object_owners (
  object_uid TEXT NOT NULL REFERENCES objects(uid),
  owner TEXT NOT NULL,
  project TEXT NOT NULL,
  PRIMARY KEY (object_uid, owner)
) WITHOUT ROWID;
CREATE INDEX object_owners_by_owner ON object_owners (owner);

CREATE TABLE workers (
  name TEXT PRIMARY KEY,
  instance_uuid TEXT NOT NULL,
  state INTEGER NOT NULL,
  drain_asked INTEGER NOT NULL,
  version TEXT NOT NULL,
  host TEXT NOT NULL,
  slots_total INTEGER NOT NULL,
  gpus TEXT NOT NULL,
  last_seen_ms INTEGER NOT NULL
) WITHOUT ROWID;
