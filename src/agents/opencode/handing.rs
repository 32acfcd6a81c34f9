//! Passes the records of a session to the run.

use super::session::SessionHead;
use super::session::records::SessionRecords;
use crate::agents::js;
use crate::agents::pass::{Gathered, ReadOptions, Reason};

/// Adds the records of a session to the pass, and names the answers that are left out or have values that are no counts.
pub(super) fn hand_over(
    session: Option<&SessionHead>,
    records: SessionRecords,
    options: &ReadOptions,
    gathered: &mut Gathered,
) {
    let mut name = |id: &[u8], reason, detail: &str| {
        let detail = || format!("message {} {detail}", js::to_utf8(id));
        gathered.left_out.add(options, (0, 0), reason, detail);
    };
    for id in &records.open {
        name(id, Reason::OpenMessage, "is not complete");
    }
    for (id, counts) in &records.invalid {
        name(id, Reason::InvalidCount, &format!("has no count of {}", counts.join(", ")));
    }
    for id in &records.undated {
        name(id, Reason::NotARecord, "has a time that no date has");
    }
    hold(session, records, gathered);
}

fn hold(session: Option<&SessionHead>, records: SessionRecords, gathered: &mut Gathered) {
    gathered.hold(records.texts, session.map(|session| session.id.clone()));
    gathered.open_messages = records.open.len() as u64;
    gathered.cwd = records.folder;
}

/// Returns the records that a flush of a stream appends.
pub(in crate::agents) fn gathered_of_stream(session: &SessionHead, records: SessionRecords) -> Gathered {
    let mut gathered = Gathered::default();
    hold(Some(session), records, &mut gathered);
    gathered
}
