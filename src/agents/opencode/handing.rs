//! Passes the records of a session to the run.

use super::session::SessionHead;
use super::session::records::SessionRecords;
use crate::agents::pass::Gathered;

/// Adds the records of a session to the pass.
pub(super) fn hand_over(session: Option<&SessionHead>, records: SessionRecords, gathered: &mut Gathered) {
    gathered.hold(records.texts, session.map(|session| session.id.clone()));
    gathered.open_messages = records.open.len() as u64;
    gathered.cwd = records.folder;
}

/// Returns the records that a flush of a stream appends.
pub(in crate::agents) fn gathered_of_stream(session: &SessionHead, records: SessionRecords) -> Gathered {
    let mut gathered = Gathered::default();
    hand_over(Some(session), records, &mut gathered);
    gathered
}
