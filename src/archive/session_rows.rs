//! Aggregates the rows of sessions from stored turns while the turns pass by, without a query.
//!
//! Touches: table `sessions` of the connection that [`SessionRows::keep`] gets. Guarantees: the rows are the rows that
//! [`sessions::prepare`](super::sessions::prepare) makes of the same turns. Where the sessions take too much memory, or a
//! turn has a value that only SQL compares right, the rows are incomplete and are left to SQL.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rusqlite::Connection;

use super::sessions::FIDELITY;
use super::statement::Statement;
use crate::record::Cell;
use crate::record::columns::{sessions, turns};
use crate::scan::json::write_js_string;
use crate::sqlite_file::{SqlValue, StoredRow};

/// A session with more models is left to SQL, because models are compared one by one.
const MODELS_MAX: usize = 64;

/// Columns whose least value among the turns is stored: of turns, and of sessions.
const LEAST: [(usize, usize); 6] = [
    (turns::PROJECT, sessions::PROJECT),
    (turns::PROJECT_KEY, sessions::PROJECT_KEY),
    (turns::TS, sessions::STARTED_AT),
    (turns::WORKFLOW_ID, sessions::WORKFLOW_ID),
    (turns::AGENT_ID, sessions::AGENT_ID),
    (turns::PARENT_SUBAGENT_ID, sessions::PARENT_AGENT_ID),
];

/// The sessions of the turns that were added.
pub(super) struct SessionRows {
    sessions: Vec<SessionSums>,
    /// The places of sessions in `sessions`, by source and session id.
    places: HashTable<usize>,
    hasher: RandomState,
    left_bytes: usize,
    is_complete: bool,
}

impl SessionRows {
    /// No sessions, which may take about `max_bytes` in all.
    pub(super) fn new(max_bytes: usize) -> Self {
        let (sessions, places) = Default::default();
        Self { sessions, places, hasher: RandomState::new(), left_bytes: max_bytes, is_complete: true }
    }

    /// Adds a turn.
    pub(super) fn add(&mut self, turn: StoredRow<'_>) {
        if self.is_complete && self.try_add(turn).is_none() {
            self.is_complete = false;
            self.sessions = Vec::new();
            self.places = HashTable::new();
        }
    }

    /// `None` when the turn has to be left to SQL.
    fn try_add(&mut self, turn: StoredRow<'_>) -> Option<()> {
        let mut values = [SqlValue::Null; turns::COLUMNS];
        values.iter_mut().zip(turn.values()).for_each(|(place, value)| *place = value);
        let key = (text(values[turns::SOURCE])??, text(values[turns::SESSION_ID])??);
        let Self { sessions, places, hasher, left_bytes, .. } = self;
        let entry = places.entry(
            hasher.hash_one(key),
            |place| sessions[*place].key() == key,
            |place| hasher.hash_one(sessions[*place].key()),
        );
        let place = match entry {
            Entry::Occupied(found) => *found.get(),
            Entry::Vacant(free) => {
                free.insert(sessions.len());
                let sums =
                    SessionSums { source: key.0.into(), session: key.1.into(), ..SessionSums::default() };
                *left_bytes = left_bytes.checked_sub(size_of_val(&sums) + key.0.len() + key.1.len())?;
                sessions.push(sums);
                sessions.len() - 1
            }
        };
        *left_bytes = left_bytes.checked_sub(sessions[place].add(&values, turn.rowid)?)?;
        Some(())
    }

    /// Whether the rows have every turn.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Fills an empty `sessions` table with the sessions, in the order of their keys.
    ///
    /// # Errors
    /// Any error of SQLite.
    pub(super) fn insert_into(mut self, connection: &Connection) -> Result<(), rusqlite::Error> {
        self.sessions.sort_unstable_by(|left, right| left.key().cmp(&right.key()));
        let marks = ["?"; sessions::COLUMNS].join(", ");
        let columns = sessions::TABLE.columns.join(", ");
        let sql = format!("INSERT INTO sessions ({columns}) VALUES ({marks})");
        let mut insert = Statement::new(connection, &sql)?;
        for session in &mut self.sessions {
            let models = session.models_json();
            insert.execute(&session.cells(&models))?;
        }
        Ok(())
    }
}

/// What is known of a session after some of its turns.
#[derive(Default)]
struct SessionSums {
    source: Box<str>,
    session: Box<str>,
    /// In the order of [`LEAST`].
    least: [Option<Box<str>>; LEAST.len()],
    ended_at: Option<String>,
    turn_count: i64,
    /// Each model with the turn index and the rowid of its first turn: SQL finds the models in this order.
    models: Vec<(i64, u64, Box<str>)>,
    is_sidechain_max: Option<i64>,
    /// The place of the worst class in [`FIDELITY`].
    fidelity_min: Option<usize>,
    is_full_min: Option<bool>,
}

impl SessionSums {
    fn key(&self) -> (&str, &str) {
        (&self.source, &self.session)
    }

    /// Adds a turn and returns how many bytes of text it added; `None` when the turn has to be left to SQL.
    fn add(&mut self, turn: &[SqlValue<'_>; turns::COLUMNS], rowid: u64) -> Option<usize> {
        let mut added_bytes = 0;
        for (least, (place, _)) in self.least.iter_mut().zip(LEAST) {
            if let Some(value) = text(turn[place])?
                && least.as_deref().is_none_or(|least| value < least)
            {
                added_bytes += value.len();
                *least = Some(value.into());
            }
        }
        let ts = text(turn[turns::TS])??;
        let ended_at = self.ended_at.get_or_insert_default();
        if ts > ended_at.as_str() {
            added_bytes += ts.len().saturating_sub(ended_at.capacity());
            ended_at.clear();
            ended_at.push_str(ts);
        }
        self.turn_count += 1;
        let (SqlValue::Int(index), model) = (turn[turns::TURN_INDEX], text(turn[turns::MODEL])??) else {
            return None;
        };
        match self.models.iter().position(|(_, _, known)| **known == *model) {
            Some(place) => {
                let (first, first_rowid, _) = &mut self.models[place];
                (*first, *first_rowid) = (*first, *first_rowid).min((index, rowid));
            }
            None if self.models.len() == MODELS_MAX => return None,
            None => {
                added_bytes += size_of::<(i64, u64, Box<str>)>() + model.len();
                self.models.push((index, rowid, model.into()));
            }
        }
        match turn[turns::IS_SIDECHAIN] {
            SqlValue::Null => {}
            SqlValue::Int(flag) => self.is_sidechain_max = self.is_sidechain_max.max(Some(flag)),
            _ => return None,
        }
        if let Some(class) = text(turn[turns::ATTRIBUTION_FIDELITY])? {
            let rank = FIDELITY.iter().position(|known| *known == class);
            self.fidelity_min = [self.fidelity_min, rank].into_iter().flatten().min();
            let is_full = class == "full";
            self.is_full_min = Some(self.is_full_min.map_or(is_full, |before| before && is_full));
        }
        Some(added_bytes)
    }

    /// The models as a JSON array.
    fn models_json(&mut self) -> String {
        self.models.sort_unstable();
        let mut json = Vec::new();
        for (_, _, model) in &self.models {
            json.push(if json.is_empty() { b'[' } else { b',' });
            write_js_string(model.as_bytes(), &mut json);
        }
        json.push(b']');
        String::from_utf8(json).unwrap_or_default()
    }

    /// The row.
    fn cells<'a>(&'a self, models_json: &'a str) -> sessions::SessionCells<'a> {
        let mut cells = [Cell::Null; sessions::COLUMNS];
        cells[sessions::SOURCE] = Cell::Text(&self.source);
        cells[sessions::SESSION_ID] = Cell::Text(&self.session);
        for (least, (_, place)) in self.least.iter().zip(LEAST) {
            cells[place] = Cell::text(least.as_deref());
        }
        cells[sessions::ENDED_AT] = Cell::text(self.ended_at.as_deref());
        cells[sessions::TURN_COUNT] = Cell::Int(self.turn_count);
        cells[sessions::MODEL_SET_JSON] = Cell::Text(models_json);
        cells[sessions::HAS_SUBAGENT] = Cell::Int(self.is_sidechain_max.unwrap_or(0));
        cells[sessions::MIN_FIDELITY] = Cell::text(self.fidelity_min.map(|rank| FIDELITY[rank]));
        if let Some(is_full) = self.is_full_min {
            cells[sessions::HAS_FULL_ATTRIBUTION] = Cell::Int(is_full.into());
        }
        cells
    }
}

/// A text or NULL; `None` for every other value.
#[expect(clippy::option_option, reason = "None: neither text nor NULL; Some(None): NULL")]
fn text(value: SqlValue<'_>) -> Option<Option<&str>> {
    match value {
        SqlValue::Null => Some(None),
        SqlValue::Text(bytes) => str::from_utf8(bytes).ok().map(Some),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::archive::{open, schema, sessions as by_sql};
    use crate::interrupt::Interrupt;
    use crate::sqlite_file::{Duplicates, Loader, Schema};
    use proptest::prelude::*;

    /// A turn: session, message, turn index, and one number from which the other columns are chosen.
    type Turn = (u8, u8, i8, u32);

    /// Loads the turns and returns the sessions that were aggregated meanwhile.
    fn load(path: &std::path::Path, turns: &[Turn], max_bytes: usize) -> SessionRows {
        let mut schema = Schema::from_sql(&schema::sql(), 4096).unwrap();
        let table = schema.table(turns::TABLE.name).unwrap();
        schema.on_duplicate(table, Duplicates::KeepLastAtFirst);
        let loader = Loader::create(path, schema, 1 << 20).unwrap();
        let mut batch = loader.batch(0);
        for (session, message, index, choice) in turns {
            let mut left = *choice as usize;
            let mut pick = |texts: &[&'static str]| {
                let picked = texts[left % texts.len()];
                left /= texts.len();
                if picked == "NULL" { SqlValue::Null } else { SqlValue::from(picked) }
            };
            let mut row = [SqlValue::Int(1); turns::COLUMNS];
            let (session, message) = (format!("s{}", session % 4), format!("m{}", message % 16));
            row[turns::SOURCE] = pick(&["claude", "codex"]);
            row[turns::SESSION_ID] = SqlValue::Text(session.as_bytes());
            row[turns::MESSAGE_ID] = SqlValue::Text(message.as_bytes());
            row[turns::TURN_INDEX] = SqlValue::Int((*index).into());
            row[turns::MODEL] =
                pick(&["a", "b\"\\", "c\u{1}\n\t\u{8}\u{c}\r'é\u{7f}\u{2028}", "", "\0", "z/"]);
            row[turns::TS] = pick(&["2026-01-02", "2026-01-01", "", "é"]);
            row[turns::ATTRIBUTION_FIDELITY] =
                pick(&["NULL", "full", "partial", "cost-only", "?", "usage-only"]);
            for place in [turns::PROJECT, turns::PROJECT_KEY, turns::WORKFLOW_ID] {
                row[place] = pick(&["NULL", "p", "pq", ""]);
            }
            for place in [turns::AGENT_ID, turns::PARENT_SUBAGENT_ID, turns::SUBAGENT_ID] {
                row[place] = pick(&["NULL", "g"]);
            }
            for place in
                [turns::ACTIVITY, turns::STOP_REASON, turns::PARENT_TOOL_USE_ID, turns::SUBAGENT_TYPE]
            {
                row[place] = SqlValue::Null;
            }
            for place in [turns::SUBAGENT_DESCRIPTION, turns::PERSONA, turns::TIER, turns::ENRICHMENT_JSON] {
                row[place] = SqlValue::Null;
            }
            row[turns::IS_SIDECHAIN] = [SqlValue::Null, SqlValue::Int(0), SqlValue::Int(1)][left % 3];
            batch.push(table, &row).unwrap();
        }
        loader.submit(batch).unwrap();
        let mut rows = SessionRows::new(max_bytes);
        loader.finish_with(&Interrupt::new(), Some((table, &mut |turn| rows.add(turn)))).unwrap();
        rows
    }

    fn stored(archive: &Connection) -> Vec<String> {
        let mut select = archive.prepare("SELECT rowid, * FROM sessions ORDER BY rowid").unwrap();
        let columns = select.column_count();
        let rows = select.query_map([], |row| {
            (0..columns).map(|at| Ok(format!("{:?}", row.get_ref(at)?))).collect::<Result<Vec<_>, _>>()
        });
        rows.unwrap().map(|row| row.unwrap().join(" ")).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_rows_are_those_of_the_query(turns in prop::collection::vec(any::<Turn>(), 1..80)) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("archive.sqlite");
            let rows = load(&path, &turns, usize::MAX);
            prop_assert!(rows.is_complete());
            let archive = Connection::open(&path).unwrap();
            open::read_mapped(&archive).unwrap();
            rows.insert_into(&archive).unwrap();
            let ours = stored(&archive);
            archive.execute_batch("DELETE FROM sessions").unwrap();
            by_sql::prepare(&archive).unwrap();
            by_sql::keep(&archive).unwrap();
            prop_assert_eq!(ours, stored(&archive));
        }
    }

    #[test]
    fn sessions_that_take_too_much_memory_are_left_to_sql() {
        let directory = tempfile::tempdir().unwrap();
        let turns: Vec<Turn> = (0..4).map(|session| (session, 0, 0, 0)).collect();
        let are_complete = [0, 1 << 20].map(|max_bytes| {
            load(&directory.path().join(max_bytes.to_string()), &turns, max_bytes).is_complete()
        });
        assert_eq!(are_complete, [false, true]);
    }
}
