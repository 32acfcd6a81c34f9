//! Passes the records of a session to the run.

use std::collections::HashSet;

use super::session::SessionHead;
use super::session::records::{HandedMessages, RecordRules};
use crate::agents::AgentsError;
use crate::agents::js;
use crate::agents::pass::{Gathered, Pass, Reason};

/// Adds the records of a session to the pass, and names the answers that are left out or have values that are no counts.
pub(super) fn hand_over(
    session: &SessionHead,
    rules: &RecordRules<'_>,
    seen: &HashSet<Vec<u8>>,
    pass: &Pass<'_>,
    gathered: &mut Gathered,
) -> Result<HandedMessages, AgentsError> {
    let told = session.hand_over(rules, seen, gathered).map_err(|error| error.at(&pass.candidate.path))?;
    let mut name = |id: &[u8], reason, detail: &str| {
        let detail = || format!("message {} {detail}", js::to_utf8(id));
        gathered.left_out.add(pass.options, (0, 0), reason, detail);
    };
    for id in &told.open {
        name(id, Reason::OpenMessage, "is not complete");
    }
    for (id, counts) in &told.invalid {
        name(id, Reason::InvalidCount, &format!("has no count of {}", counts.join(", ")));
    }
    for id in &told.undated {
        name(id, Reason::NotARecord, "has a time that no date has");
    }
    Ok(told)
}
