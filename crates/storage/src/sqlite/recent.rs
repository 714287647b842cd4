//! What the last writes made of keys, until the table `current` says so. The table's rows lie in the order of their keys: to
//! write one of them is to write a page, and keys come in any order. So only the log is written at once, and the table follows
//! from key to key, many to a page. What it has not been told is replayed from the log when the store is opened.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use rusqlite::{Connection, params};

use super::schema;
use crate::Revision;

/// Writes from which on the table is told what they made.
const MANY: usize = 4096;
/// Keys that a commit tells the table about at least, and for each of its writes.
const STEP: usize = 64;
const STEP_OF_WRITE: usize = 2;

/// What a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Latest {
    /// Of its last row in the log.
    pub(super) id: i64,
    pub(super) create_revision: Revision,
    pub(super) is_live: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Recent {
    keys: BTreeMap<Arc<str>, Latest>,
    /// The table knows what all writes up to this revision made.
    applied: Revision,
    /// Writes since then.
    writes: usize,
    /// While the table is told: of all up to which revision, and the last key that it was told of.
    round: Option<(Revision, Arc<str>)>,
}

/// What a commit tells the table, to be taken over once it is on disk.
#[derive(Debug, Default)]
pub(super) struct Told {
    keys: Vec<(Arc<str>, i64)>,
    round: Option<(Revision, Arc<str>)>,
    applied: Option<Revision>,
}

impl Recent {
    /// What the table has not been told.
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut recent = Self { applied: schema::applied(connection)?, ..Self::default() };
        let mut statement = connection
            .prepare_cached("SELECT id, key, create_revision, value IS NOT NULL FROM log WHERE id > ?1 ORDER BY id")?;
        let mut rows = statement.query([schema::last_id(recent.applied)])?;
        while let Some(row) = rows.next()? {
            let latest = Latest { id: row.get(0)?, create_revision: row.get(2)?, is_live: row.get(3)? };
            recent.keys.insert(row.get_ref(1)?.as_str()?.into(), latest);
            recent.writes += 1;
        }
        Ok(recent)
    }

    pub(super) fn get(&self, key: &str) -> Option<Latest> {
        self.keys.get(key).copied()
    }

    /// Keys with a prefix that sort after another.
    pub(super) fn range<'a>(&'a self, prefix: &'a str, after: &str) -> impl Iterator<Item = (&'a Arc<str>, Latest)> {
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let keys = self.keys.range::<str, _>((from, Bound::Unbounded));
        keys.take_while(move |(key, _)| key.starts_with(prefix)).map(|(key, latest)| (key, *latest))
    }

    pub(super) fn applied(&self) -> Revision {
        self.applied
    }

    /// Tells the table, in a transaction that writes so much, what some keys were made by writes up to `revision`; of
    /// `everything` or, once they are many, of the next keys.
    pub(super) fn tell(
        &self,
        connection: &Connection,
        revision: Revision,
        writes: usize,
        everything: bool,
    ) -> rusqlite::Result<Told> {
        let (until, after) = match &self.round {
            Some((until, after)) if !everything => (*until, Some(after)),
            _ if everything || self.writes >= MANY => (revision, None),
            _ => return Ok(Told::default()),
        };
        let most = if everything { usize::MAX } else { STEP.max(writes * STEP_OF_WRITE) };
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(&**after));
        let mut put = connection
            .prepare_cached("INSERT OR REPLACE INTO current (key, id, create_revision) VALUES (?1, ?2, ?3)")?;
        let mut remove = connection.prepare_cached("DELETE FROM current WHERE key = ?1")?;
        let mut told = Told::default();
        for (key, latest) in self.keys.range::<str, _>((from, Bound::Unbounded)).take(most) {
            match latest.is_live {
                true => put.execute(params![&**key, latest.id, latest.create_revision])?,
                false => remove.execute([&**key])?,
            };
            told.keys.push((key.clone(), latest.id));
        }
        if told.keys.len() < most {
            schema::set_applied(connection, until)?;
            told.applied = Some(until);
        } else {
            told.round = told.keys.last().map(|(key, _)| (until, key.clone()));
        }
        Ok(told)
    }

    /// Takes over what a commit has written.
    pub(super) fn committed(&mut self, told: Told, written: Vec<(Arc<str>, Latest)>) {
        for (key, id) in told.keys {
            if self.keys.get(&key).is_some_and(|latest| latest.id == id) {
                self.keys.remove(&key);
            }
        }
        match told.applied {
            Some(applied) => (self.applied, self.writes, self.round) = (applied, self.keys.len(), None),
            None if told.round.is_some() => self.round = told.round,
            None => {}
        }
        self.writes += written.len();
        self.keys.extend(written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(connection: &Connection) -> Vec<(String, i64)> {
        let mut statement = connection.prepare("SELECT key, id FROM current ORDER BY key").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.collect::<rusqlite::Result<_>>().unwrap()
    }

    /// Writes of random keys among many, some of them deletions, with or without commits that fail: whenever the process
    /// ends, what is read back is what was written.
    #[test]
    fn table_and_log_say_together_what_was_written() {
        let connection = Connection::open_in_memory().unwrap();
        schema::prepare(&connection).unwrap();
        let mut recent = Recent::read(&connection).unwrap();
        let mut model: BTreeMap<String, i64> = BTreeMap::new();
        let (mut revision, mut random, mut rounds) = (1, 7_u64, 0);
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for batch in 0..400 {
            connection.execute_batch("BEGIN").unwrap();
            let fails = draw(10) == 0;
            let (before, mut after) = (revision, model.clone());
            let told = recent.tell(&connection, revision, 60, false).unwrap();
            let mut written = Vec::new();
            for _ in 0..60 {
                revision += 1;
                let (key, is_live) = (format!("/k/{:04}", draw(3000)), draw(4) > 0);
                let id = schema::first_id(revision);
                let value = is_live.then_some("x");
                connection.execute("INSERT INTO log VALUES (?1, ?2, ?1, 0, ?3)", params![id, key, value]).unwrap();
                match is_live {
                    true => after.insert(key.clone(), id),
                    false => after.remove(&key),
                };
                written.push((key.as_str().into(), Latest { id, create_revision: id as u64, is_live }));
            }
            if fails {
                connection.execute_batch("ROLLBACK").unwrap();
                revision = before;
                continue;
            }
            connection.execute_batch("COMMIT").unwrap();
            rounds += usize::from(told.applied.is_some());
            recent.committed(told, written);
            model = after;
            if batch % 37 == 0 {
                recent = Recent::read(&connection).unwrap();
            }
            let mut seen: BTreeMap<String, i64> = table(&connection).into_iter().collect();
            for (key, latest) in recent.range("/k/", "") {
                match latest.is_live {
                    true => seen.insert(key.to_string(), latest.id),
                    false => seen.remove(&**key),
                };
            }
            assert!(seen == model, "after batch {batch}");
            assert!(recent.keys.len() < 3 * MANY);
        }
        assert!(rounds > 2, "the table was told {rounds} times of everything");
        let told = recent.tell(&connection, revision, 0, true).unwrap();
        recent.committed(told, Vec::new());
        assert_eq!(table(&connection), model.into_iter().collect::<Vec<_>>());
        assert!(recent.keys.is_empty() && schema::applied(&connection).unwrap() == revision);
    }

    #[test]
    fn a_range_begins_after_a_key_and_ends_with_its_prefix() {
        let latest = Latest { id: 1, create_revision: 1, is_live: true };
        let keys = ["/a", "/b/1", "/b/2", "/b/3", "/c"].map(|key| (key.into(), latest)).into();
        let recent = Recent { keys, ..Recent::default() };
        let found = |prefix, after| recent.range(prefix, after).map(|(key, _)| key.to_string()).collect::<Vec<_>>();
        assert_eq!(found("/b/", ""), ["/b/1", "/b/2", "/b/3"]);
        assert_eq!(found("/b/", "/b/1"), ["/b/2", "/b/3"]);
        assert_eq!(found("", "/b/3"), ["/c"]);
        assert!(found("/b/", "/b/3").is_empty());
    }
}
