//! Adds the records of a session to what a pass gathers, and names the messages that made no record or lack a count.

use std::collections::HashSet;

use super::session::SessionHead;
use super::session::records::{HandedMessages, RecordRules};
use crate::agents::AgentsError;
use crate::agents::js;
use crate::agents::pass::{Gathered, Pass, Reason};

pub(super) fn gather_session(
    session: &SessionHead,
    rules: &RecordRules<'_>,
    seen: &HashSet<Vec<u8>>,
    pass: &Pass<'_>,
    gathered: &mut Gathered,
) -> Result<HandedMessages, AgentsError> {
    let handed = session.hand_over(rules, seen, gathered).map_err(|error| error.at(&pass.candidate.path))?;
    let mut name = |id: &[u8], reason, detail: &str| {
        let detail = || format!("message {} {detail}", js::to_utf8(id));
        gathered.left_out.add(pass.options, (0, 0), reason, detail);
    };
    for id in &handed.open {
        name(id, Reason::OpenMessage, "is not complete");
    }
    for (id, counts) in &handed.invalid {
        name(id, Reason::InvalidCount, &format!("has no count of {}", counts.join(", ")));
    }
    for id in &handed.undated {
        name(id, Reason::NotARecord, "has a time outside the range of dates");
    }
    Ok(handed)
}
