-- A gang over several workers has a lease for each of them; the one with rank 0 leads, as the one lease of a gang on one
-- worker does. One live lease for each part, and all of one epoch: the key and the trigger say so.
CREATE TABLE part_leases (
  uid TEXT PRIMARY KEY,
  work_uid TEXT NOT NULL REFERENCES works(uid),
  project TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  worker TEXT NOT NULL,
  instance_uuid TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  slots TEXT NOT NULL,
  stop INTEGER NOT NULL,
  acknowledged_item INTEGER NOT NULL,
  start_checkpoint_step INTEGER NOT NULL,
  running_ms INTEGER NOT NULL,
  first_rank INTEGER NOT NULL DEFAULT 0,
  UNIQUE (work_uid, first_rank)
);
INSERT INTO part_leases SELECT uid, work_uid, project, epoch, worker, instance_uuid, attempt, slots, stop, acknowledged_item,
                               start_checkpoint_step, running_ms, 0 FROM leases;
DROP TABLE leases;
ALTER TABLE part_leases RENAME TO leases;
CREATE TRIGGER leases_of_one_epoch BEFORE INSERT ON leases
WHEN EXISTS (SELECT 1 FROM leases WHERE work_uid = NEW.work_uid AND epoch <> NEW.epoch)
BEGIN
  SELECT RAISE(ABORT, 'the work has a lease of another epoch');
END;
