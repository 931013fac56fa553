-- Which rows or columns of a base each adapter changes, from the acceptance of its job on. A row goes with a job that
-- fails or is cancelled, and with its adapter. `sequence` never repeats: what is above the highest one seen is new.
CREATE TABLE regions (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE,      -- of the adapter, present or to come
  project TEXT NOT NULL,
  base_hash TEXT NOT NULL,
  work_uid TEXT NOT NULL,
  regions TEXT NOT NULL           -- core::ToJson(RegionSet)
);
CREATE INDEX regions_by_base ON regions (project, base_hash, sequence);
CREATE INDEX regions_by_work ON regions (work_uid);
