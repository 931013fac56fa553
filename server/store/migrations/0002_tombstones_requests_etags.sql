-- Keys of the object store that no row of `objects` names: their bytes, if any, are deleted from due_ms on. A key gets
-- here when its object lost its last owner, and before bytes are put that a failure could leave without a row.
CREATE TABLE doomed_keys (
  key TEXT PRIMARY KEY,
  project TEXT NOT NULL,
  due_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX doomed_keys_by_due ON doomed_keys (due_ms, key);

-- A repeated request is answered with what the first call made, not with a namesake made since; '' = it was deleted.
ALTER TABLE requests ADD COLUMN uid TEXT NOT NULL DEFAULT '';
UPDATE requests SET uid = coalesce((SELECT uid FROM works WHERE name = requests.name),
                                   (SELECT uid FROM resources WHERE name = requests.name), '');
CREATE INDEX requests_by_age ON requests (create_ms);

-- Rises with each change of state: what an etag is made of. `version` rises with every write.
ALTER TABLE works ADD COLUMN generation INTEGER NOT NULL DEFAULT 1;
