//! From the records of a session to what the run appends.

use super::session::{Session, SessionRecords};
use crate::agents::pass::Gathered;

/// Puts the records of a session where the run finds them.
pub(super) fn hand_over(session: Option<&Session>, records: SessionRecords, gathered: &mut Gathered) {
    gathered.hold(records.texts, session.map(|session| session.id.clone()));
    gathered.open_messages = records.open.len() as u64;
    gathered.cwd = records.folder;
}

/// What a stream's flush is to append.
pub(in crate::agents) fn gathered_of_stream(session: &Session, records: SessionRecords) -> Gathered {
    let mut gathered = Gathered::default();
    hand_over(Some(session), records, &mut gathered);
    gathered
}
