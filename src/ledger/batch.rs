//! A batch of records: parses, checks and prints records as the lines that the ledger will have.
//!
//! Touches only memory. Guarantees: a batch can be appended as it is, because every record has the members that its kind
//! needs, every line is what `JSON.stringify` prints, and every id and fingerprint is known.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use bumpalo::Bump;

use crate::home::SessionId;
use crate::record::fold::Fold;
use crate::record::maker::RowMaker;
use crate::record::message_id::certain_id;
use crate::record::rows::Rows;
use crate::record::strict::{Doubt, doubt_in_record, doubt_in_stamp};
use crate::record::{Hasher, Id, LINE_MAX_BYTES, ParsedLine, RecordKind, line_of};
use crate::scan::json::{Document, Kind as JsonKind, Value, stringify, trim_js, write_js_string};

/// Why a batch refused a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line_number} (byte {offset_bytes}): {reason}")]
pub struct Refusal {
    /// The number of the record, counted from 1. For records given one a line, the number of the line.
    pub line_number: u64,
    /// Where the line starts, in bytes, if the records were given one a line, without their line ends.
    pub offset_bytes: u64,
    /// What is wrong with the record.
    pub reason: String,
    /// Whether only the strict rules refuse the record: a batch made by [`Batch::new`] accepts the record.
    pub is_strict: bool,
}

/// The reason of a [`Refusal`], before the line number and the offset are known.
struct RefusalReason {
    text: String,
    is_strict: bool,
}

impl<T: Into<String>> From<T> for RefusalReason {
    fn from(text: T) -> Self {
        Self { text: text.into(), is_strict: false }
    }
}

/// A line to append to the ledger.
#[derive(Debug, Clone)]
pub(super) struct BatchEntry {
    /// The range of the line in the batch's text, LF included.
    pub line: Range<usize>,
    /// `None` for stamps, which are always written.
    pub id: Option<Id>,
    /// `None` for records that are not turns.
    pub fingerprint: Option<Id>,
    /// Whether a turn with the same fingerprint is another turn: see [`Batch::compare_last_by_id_alone`].
    pub has_certain_id: bool,
    /// Whether the line is the relationship that a stamp implies.
    pub is_implied: bool,
    /// Whether the line counts as a record of the batch. Relationships that stamps imply do not count, and neither do
    /// records pushed before [`Batch::count_from_here`].
    pub is_counted: bool,
    /// The number of the joined batch that has the line, counted from 0: see [`Batch::join_next`].
    pub part: u32,
    /// The index of the line among the entries of the batch.
    pub number: u32,
}

/// A line to append to a content sidecar.
#[derive(Debug, Clone)]
pub(super) struct ContentEntry {
    pub session: String,
    /// The range of the line in the batch's text, LF included.
    pub line: Range<usize>,
}

/// Records to append together.
///
/// Records are pushed as JSON text, one by one. A record that cannot be appended is an error and leaves the batch as the
/// batch was. A caller that promises all or nothing drops the batch after such an error.
///
/// A batch made by [`Batch::new`] accepts what the TypeScript package accepts, and therefore every line of a ledger or a
/// journal. A batch made by [`Batch::strict`] is for new records, such as those of `burn ledger append`: a strict batch
/// also refuses values that the archive could store and that no agent means. `docs/records.md` lists the strict rules.
#[derive(Default)]
pub struct Batch {
    is_strict: bool,
    text: Vec<u8>,
    pub(super) entries: Vec<BatchEntry>,
    pub(super) content: Vec<ContentEntry>,
    /// Session ids of content records that cannot name a file.
    skipped: Vec<String>,
    /// Content records without a session id.
    without_session: u64,
    /// Number of lines pushed so far, blank lines included.
    lines: u64,
    /// The length of the pushed lines in bytes, each with a line end.
    lines_len_bytes: u64,
    part: u32,
    /// Whether the batch accepts values that the archive cannot store.
    is_unchecked: bool,
    tools: Tools,
}

/// The parser, the hasher and the row maker, kept from one record to the next.
#[derive(Default)]
struct Tools {
    document: Document,
    hasher: Hasher,
    rows: RowMaker<'static>,
}

/// A longer record may have a text that is too long for an index, or calls whose rows take more than the archive stores. The rows
/// of a shorter one take less than 20 MB, however its bytes are shared between its calls and the ids that their rows repeat.
#[cfg(feature = "agents")]
const MADE_MAX_BYTES: usize = 64 << 10;

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("entries", &self.entries.len())
            .field("content", &self.content.len())
            .finish_non_exhaustive()
    }
}

impl Batch {
    /// An empty batch that accepts what the TypeScript package accepts.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch that accepts only records that keep the strict rules: times are times, counts are whole numbers
    /// from 0 to 2^53 - 1, required texts are not empty. The strict rules do not concern content records.
    pub fn strict() -> Self {
        Self { is_strict: true, ..Self::default() }
    }

    /// About how much memory the records of the batch use, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let entries = self.entries.len() * size_of::<BatchEntry>();
        let content = self.content.iter().map(|entry| size_of::<ContentEntry>() + entry.session.len());
        let skipped = self.skipped.iter().map(|session| size_of::<String>() + session.len());
        (self.text.len() + entries + content.chain(skipped).sum::<usize>()) as u64
    }

    /// An empty batch that accepts values that the archive cannot store, as the TypeScript package does.
    #[cfg(feature = "agents")]
    pub(crate) fn unchecked() -> Self {
        Batch { is_unchecked: true, ..Self::default() }
    }

    /// The number of ledger lines in the batch, lines that stamps imply included.
    #[cfg(feature = "agents")]
    pub(crate) fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// The length of a ledger line of the batch in bytes, LF included.
    #[cfg(feature = "agents")]
    pub(crate) fn entry_len_bytes(&self, number: u32) -> u64 {
        self.entries.get(number as usize).map_or(0, |entry| entry.line.len() as u64)
    }

    /// The number of records in the batch, without skipped records.
    pub fn len(&self) -> usize {
        self.entries.iter().filter(|entry| entry.is_counted).count() + self.content.len()
    }

    /// Whether the batch has no record.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.content.is_empty()
    }

    /// Starts a new batch inside this batch: records pushed from now on count as a batch of their own, appended right
    /// after the records pushed before. Turns pushed from now on are also compared by fingerprint with the turns pushed before.
    pub fn join_next(&mut self) {
        self.part += 1;
    }

    /// Excludes the records pushed before from every count, whether the records are written or not, because an earlier
    /// append reported them.
    #[cfg(feature = "ingest")]
    pub(crate) fn count_from_here(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.is_counted = false);
    }

    /// The records as ledger lines, without their line ends. [`Batch::push_line`] makes the same batch from these
    /// lines. Relationships that stamps imply and content records are left out.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let own = self.entries.iter().filter(|entry| !entry.is_implied);
        own.map(|entry| &self.text[entry.line.start..entry.line.end - 1])
    }

    /// The content records as lines, without their line ends.
    #[cfg(feature = "cli")]
    pub(crate) fn content_lines(&self) -> impl Iterator<Item = &[u8]> {
        self.content.iter().map(|entry| &self.text[entry.line.start..entry.line.end - 1])
    }

    /// The session ids of content records that were skipped because no file can have such a name, each id once.
    pub fn skipped_sessions(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        self.skipped.iter().map(String::as_str).filter(|session| seen.insert(*session)).collect()
    }

    /// The number of content records that were skipped because of a session id that cannot name a file.
    #[cfg(feature = "agents")]
    pub(crate) fn skipped_sessions_count(&self) -> usize {
        self.skipped.len()
    }

    /// The number of content records that were skipped because their session id cannot name a file or is missing.
    pub fn skipped(&self) -> u64 {
        self.skipped.len() as u64 + self.without_session
    }

    /// Adds a record of the given kind; `record` is the text of the member `record` of a ledger line. Blank text is skipped.
    ///
    /// # Errors
    /// When the text is not JSON or not an object, lacks a member that the kind needs, or has a member of another type.
    /// A record that the archive could never store is refused.
    pub fn push(&mut self, kind: RecordKind, record: &[u8]) -> Result<(), Refusal> {
        self.parsed(record, |batch, tools, root| {
            object(root, kind.as_str())?;
            batch.push_record(kind, root, None, tools)
        })
    }

    /// Does the same as [`Batch::push`] with a record that a reader of agents' logs has printed, and that the caller has
    /// parsed. Such a record is what `JSON.stringify` prints, so its text is not printed again.
    #[cfg(feature = "agents")]
    pub(crate) fn push_printed(
        &mut self,
        kind: RecordKind,
        record: &[u8],
        root: Value<'_>,
    ) -> Result<(), Refusal> {
        self.counted_line(record, |batch| {
            let mut tools = std::mem::take(&mut batch.tools);
            let taken = object(root, kind.as_str()).map_err(RefusalReason::from);
            let taken = taken.and_then(|()| batch.push_record(kind, root, Some(record), &mut tools));
            batch.tools = tools;
            taken
        })
    }

    /// Does the same as [`Batch::push`] with a record that a reader of agents' logs has printed with all members of its kind,
    /// and with its id and fingerprint. A record of at most [`MADE_MAX_BYTES`] is neither parsed nor checked, because no
    /// limit of the archive can refuse it. Debug builds compare it with what [`Batch::push`] makes of it.
    #[cfg(feature = "agents")]
    pub(crate) fn push_made(
        &mut self,
        kind: RecordKind,
        record: &[u8],
        (id, fingerprint): (Id, Option<Id>),
    ) -> Result<(), Refusal> {
        if record.len() > MADE_MAX_BYTES || self.is_strict || self.is_unchecked {
            return self.push(kind, record);
        }
        if cfg!(debug_assertions) {
            let mut pushed = Batch::new();
            assert_eq!(pushed.push(kind, record), Ok(()));
            let made = pushed.entries.first().map(|entry| (entry.id, entry.fingerprint));
            assert_eq!(made, Some((Some(id), fingerprint)), "{}", String::from_utf8_lossy(record));
        }
        self.counted_line(record, |batch| {
            let start = batch.begin_line(kind);
            batch.text.extend_from_slice(record);
            batch.text.push(b'}');
            batch.push_entry(start, Some(id), fingerprint, false);
            Ok(())
        })
    }

    /// The fingerprint of the turn that was pushed last.
    #[cfg(feature = "agents")]
    pub(crate) fn last_fingerprint(&self) -> Option<Id> {
        self.entries.last().and_then(|entry| entry.fingerprint)
    }

    /// Compares the turn that was pushed last with others by its id alone, because its id is certain: agents that work side
    /// by side have turns with equal times, models and counts.
    pub(crate) fn compare_last_by_id_alone(&mut self) {
        if let Some(entry) = self.entries.last_mut() {
            entry.has_certain_id = true;
        }
    }

    /// Adds a stamp from its whole line, `{"v":1,"kind":"stamp",...}`. A stamp that names a session and a parent agent
    /// also adds the relationship between the two. Blank text is skipped.
    ///
    /// # Errors
    /// When the line is not a stamp, or the stamp's selector has none of `sessionId`, `messageId` and `range`.
    pub fn push_stamp(&mut self, line: &[u8]) -> Result<(), Refusal> {
        self.parsed(line, |batch, tools, root| match line_of(root) {
            ParsedLine::Stamp => batch.push_parsed_stamp(root, tools),
            _ => Err("it is no stamp: {\"v\":1,\"kind\":\"stamp\",\"ts\":…,\"selector\":…,\"enrichment\":…} is needed".into()),
        })
    }

    /// Adds a line of a ledger, a record or a stamp, as [`Batch::push`] and [`Batch::push_stamp`] do. Blank text is skipped.
    ///
    /// # Errors
    /// The errors of [`Batch::push`] and [`Batch::push_stamp`], and an error for a line of a version or kind that this
    /// program does not know.
    pub fn push_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        self.parsed(line, |batch, tools, root| batch.push_parsed_line(root, tools))
    }

    /// Does the same as [`Batch::push_line`] with a line that another home exported. A turn whose message id is unique by its
    /// form is compared with others by its id alone: a turn of the ledger with the same fingerprint does not make it a
    /// duplicate. [`Batch::push_line`] keeps the rule of the programs that share the ledger.
    ///
    /// # Errors
    /// The errors of [`Batch::push_line`].
    pub fn push_exported_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        self.parsed(line, |batch, tools, root| {
            batch.push_parsed_line(root, tools)?;
            if let ParsedLine::Record(RecordKind::Turn, turn) = line_of(root)
                && certain_id(turn).is_some()
            {
                batch.compare_last_by_id_alone();
            }
            Ok(())
        })
    }

    /// Adds a content record for the sidecar of its session. A content record whose session id is missing or cannot
    /// name a file is skipped and counted. Blank text is skipped.
    ///
    /// # Errors
    /// When the text is not a JSON object.
    pub fn push_content(&mut self, record: &[u8]) -> Result<(), Refusal> {
        self.parsed(record, |batch, _, root| {
            object(root, "content record")?;
            let Some(session) = root.get("sessionId").filter(|session| session.is_truthy()) else {
                batch.without_session += 1;
                return Ok(());
            };
            let text = session.as_str().unwrap_or_else(|| session.to_string().into()).into_owned();
            if session.kind() != JsonKind::String || SessionId::new(&text).is_err() {
                batch.skipped.push(text);
                return Ok(());
            }
            let start = batch.text.len();
            stringify(root, &mut batch.text);
            batch.text.push(b'\n');
            batch.content.push(ContentEntry { session: text, line: start..batch.text.len() });
            Ok(())
        })
    }

    /// Does the same as [`Batch::push_content`] with a record that a reader of agents' logs has printed. Such a record is
    /// what `JSON.stringify` prints, so its text is not parsed and printed again.
    #[cfg(feature = "agents")]
    pub(crate) fn push_printed_content(&mut self, record: &[u8]) -> Result<(), Refusal> {
        let session = printed_session(record).filter(|session| SessionId::new(session).is_ok());
        let Some(session) = session else { return self.push_content(record) };
        self.counted_line(record, |batch| {
            let start = batch.text.len();
            batch.text.extend_from_slice(record);
            batch.text.push(b'\n');
            batch.content.push(ContentEntry { session: session.to_owned(), line: start..batch.text.len() });
            Ok(())
        })
    }

    /// The bytes of a line, LF included.
    pub(super) fn line(&self, range: &Range<usize>) -> &[u8] {
        &self.text[range.clone()]
    }

    /// The bytes of several lines, LF included. They are copied only if they are not next to each other.
    pub(super) fn joined<'r>(&self, lines: impl Iterator<Item = &'r Range<usize>> + Clone) -> Cow<'_, [u8]> {
        let are_together =
            lines.clone().zip(lines.clone().skip(1)).all(|(line, next)| line.end == next.start);
        match (lines.clone().next(), lines.clone().last()) {
            (Some(first), Some(last)) if are_together => self.line(&(first.start..last.end)).into(),
            _ => lines.map(|line| self.line(line)).collect::<Vec<_>>().concat().into(),
        }
    }

    /// Parses `text` and passes the root to `take`, unless the text is blank.
    fn parsed(
        &mut self,
        text: &[u8],
        take: impl FnOnce(&mut Self, &mut Tools, Value<'_>) -> Result<(), RefusalReason>,
    ) -> Result<(), Refusal> {
        self.counted_line(text, |batch| {
            let text = trim_js(text);
            if text.is_empty() {
                return Ok(());
            }
            let mut tools = std::mem::take(&mut batch.tools);
            let mut document = std::mem::take(&mut tools.document);
            let taken = match document.parse(text) {
                Ok(root) => take(batch, &mut tools, root),
                Err(error) => Err(error.to_string().into()),
            };
            tools.document = document;
            batch.tools = tools;
            taken
        })
    }

    /// Counts the line `text`, which `take` adds. An error of `take` becomes a [`Refusal`].
    fn counted_line(
        &mut self,
        text: &[u8],
        take: impl FnOnce(&mut Self) -> Result<(), RefusalReason>,
    ) -> Result<(), Refusal> {
        let offset_bytes = self.lines_len_bytes;
        self.lines += 1;
        self.lines_len_bytes += text.len() as u64 + 1;
        take(self).map_err(|RefusalReason { text, is_strict }| Refusal {
            line_number: self.lines,
            offset_bytes,
            reason: text,
            is_strict,
        })
    }

    fn push_parsed_line(&mut self, root: Value<'_>, tools: &mut Tools) -> Result<(), RefusalReason> {
        match line_of(root) {
            ParsedLine::Record(kind, record) => self.push_record(kind, record, None, tools),
            ParsedLine::Stamp => self.push_parsed_stamp(root, tools),
            ParsedLine::Shapeless(_) => Err("its record is missing or no object".into()),
            ParsedLine::Unknown => Err("it is no ledger line of a known version and kind".into()),
        }
    }

    fn push_record(
        &mut self,
        kind: RecordKind,
        record: Value<'_>,
        printed: Option<&[u8]>,
        tools: &mut Tools,
    ) -> Result<(), RefusalReason> {
        match kind {
            _ if self.is_unchecked => {}
            RecordKind::Relationship => check_relationship(record)?,
            RecordKind::UserTurn => check_user_turn(record)?,
            // The archive accepts null here, as the archive of the TypeScript package does.
            RecordKind::ToolResultEvent => {
                for key in ["status", "eventSource"] {
                    if record.get(key).is_some_and(Value::is_null) {
                        return Err(format!("{key} of the tool_result_event must be a string").into());
                    }
                }
            }
            RecordKind::Turn | RecordKind::Compaction => {}
        }
        let start = self.begin_line(kind);
        match printed {
            Some(text) => self.text.extend_from_slice(text),
            None => stringify(record, &mut self.text),
        }
        self.text.push(b'}');
        // User turns and relationships have no table, so that only their length can be refused.
        let has_table = !matches!(kind, RecordKind::UserTurn | RecordKind::Relationship);
        if has_table || (self.text.len() - start) as u64 > LINE_MAX_BYTES {
            self.check_line(start, tools)?;
        }
        self.keep_strict_rules(start, || doubt_in_record(kind, record))?;
        let hasher = &mut tools.hasher;
        let fingerprint = if kind == RecordKind::Turn { hasher.fingerprint(record) } else { None };
        self.push_entry(start, Some(hasher.id(kind, record)), fingerprint, false);
        Ok(())
    }

    /// Begins the line of a record, and returns where the line begins in the text.
    fn begin_line(&mut self, kind: RecordKind) -> usize {
        let start = self.text.len();
        self.text.extend_from_slice(b"{\"v\":1,\"kind\":\"");
        self.text.extend_from_slice(kind.as_str().as_bytes());
        self.text.extend_from_slice(b"\",\"record\":");
        start
    }

    fn push_parsed_stamp(&mut self, stamp: Value<'_>, tools: &mut Tools) -> Result<(), RefusalReason> {
        let selector = stamp.get("selector").filter(|selector| selector.kind() == JsonKind::Object);
        let Some(selector) = selector else { return Err("the stamp has no selector".into()) };
        if !["sessionId", "messageId", "range"]
            .iter()
            .any(|key| selector.get(key).is_some_and(Value::is_truthy))
        {
            return Err("the stamp's selector needs a sessionId, a messageId or a range".into());
        }
        let start = self.text.len();
        stringify(stamp, &mut self.text);
        self.check_line(start, tools)?;
        self.keep_strict_rules(start, || doubt_in_stamp(stamp))?;
        self.push_entry(start, None, None, false);
        let text = |value: Option<Value<'_>>| {
            value
                .and_then(Value::as_js_str)
                .filter(|text| !text.as_wtf8().is_empty())
                .map(|text| (text.to_utf8_lossy().into_owned(), text.as_wtf8().to_vec()))
        };
        let enrichment = stamp.get("enrichment");
        let of_enrichment = |key: &str| text(enrichment.and_then(|enrichment| enrichment.get(key)));
        let (Some(session), Some(parent)) = (text(selector.get("sessionId")), of_enrichment("parentAgentId"))
        else {
            return Ok(());
        };
        let agent = of_enrichment("agentId");
        let start = self.text.len();
        self.text.extend_from_slice(
            b"{\"v\":1,\"kind\":\"relationship\",\"record\":{\"v\":1,\"source\":\"spawn-env\",\"sessionId\":",
        );
        write_js_string(&session.1, &mut self.text);
        self.text.extend_from_slice(b",\"relatedSessionId\":");
        write_js_string(&parent.1, &mut self.text);
        self.text.extend_from_slice(b",\"relationshipType\":\"subagent\"");
        if let Some(ts) = stamp.get("ts") {
            self.text.extend_from_slice(b",\"ts\":");
            stringify(ts, &mut self.text);
        }
        if let Some((_, agent)) = &agent {
            self.text.extend_from_slice(b",\"agentId\":");
            write_js_string(agent, &mut self.text);
        }
        self.text.extend_from_slice(b"}}");
        let agent = agent.map_or_else(String::new, |(agent, _)| agent);
        let id = tools.hasher.id_of_parts(&["spawn-env", &session.0, "subagent", &parent.0, &agent, ""]);
        self.push_entry(start, Some(id), None, true);
        Ok(())
    }

    /// Ends the line at `start` and adds its entry. An implied line is not counted.
    fn push_entry(&mut self, start: usize, id: Option<Id>, fingerprint: Option<Id>, is_implied: bool) {
        self.text.push(b'\n');
        let (line, number) = (start..self.text.len(), self.entries.len() as u32);
        let (is_counted, part) = (!is_implied, self.part);
        self.entries.push(BatchEntry {
            line,
            id,
            fingerprint,
            has_certain_id: false,
            is_implied,
            is_counted,
            part,
            number,
        });
    }

    /// Removes the line at `start` from the text again if the batch is strict and the line breaks a strict rule.
    fn keep_strict_rules<'d>(
        &mut self,
        start: usize,
        doubt: impl FnOnce() -> Option<Doubt<'d>>,
    ) -> Result<(), RefusalReason> {
        match self.is_strict.then(doubt).flatten() {
            None => Ok(()),
            Some(doubt) => {
                self.text.truncate(start);
                Err(RefusalReason { text: doubt.to_string(), is_strict: true })
            }
        }
    }

    /// Refuses the line at `start` if the archive would refuse the line, and removes the line from the text again.
    fn check_line(&mut self, start: usize, tools: &mut Tools) -> Result<(), String> {
        if self.is_unchecked {
            return Ok(());
        }
        let arena = Bump::new();
        let mut made = Rows::default();
        tools.rows.add(0, &self.text[start..], &Fold::default(), &arena, &mut made);
        match made.findings.pop() {
            None => Ok(()),
            Some(finding) => {
                self.text.truncate(start);
                Err(finding.reason)
            }
        }
    }
}

/// The session of a printed record, which begins with `{"v":1,"source":"…","sessionId":"…"`; none if the record begins
/// otherwise, or if the session's id has an escape.
#[cfg(feature = "agents")]
fn printed_session(record: &[u8]) -> Option<&str> {
    let source = record.strip_prefix(b"{\"v\":1,\"source\":\"")?;
    let session = source[memchr::memchr(b'"', source)?..].strip_prefix(b"\",\"sessionId\":\"")?;
    let end = memchr::memchr2(b'"', b'\\', session).filter(|end| session[*end] == b'"')?;
    std::str::from_utf8(&session[..end]).ok()
}

fn object(value: Value<'_>, what: &str) -> Result<(), String> {
    if value.kind() == JsonKind::Object { Ok(()) } else { Err(format!("the {what} is no JSON object")) }
}

fn require(object: Value<'_>, what: &str, keys: &[&str], kind: JsonKind) -> Result<(), String> {
    for key in keys {
        let wanted = match kind {
            JsonKind::String => "a string",
            JsonKind::Number => "a number",
            _ => "an array",
        };
        match object.get(key) {
            None => return Err(format!("the {what} has no {key}")),
            Some(value) if value.kind() != kind => {
                return Err(format!("{key} of the {what} must be {wanted}"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn check_relationship(record: Value<'_>) -> Result<(), String> {
    require(record, "relationship", &["source", "sessionId", "relationshipType"], JsonKind::String)?;
    for key in ["relatedSessionId", "agentId", "parentToolUseId"] {
        if record.get(key).is_some_and(|value| !value.is_null() && value.kind() != JsonKind::String) {
            return Err(format!("{key} of the relationship must be a string"));
        }
    }
    Ok(())
}

fn check_user_turn(record: Value<'_>) -> Result<(), String> {
    require(record, "user turn", &["source", "sessionId", "userUuid", "ts"], JsonKind::String)?;
    require(record, "user turn", &["blocks"], JsonKind::Array)?;
    for block in record.get("blocks").into_iter().flat_map(|blocks| blocks.items()) {
        object(block, "block of the user turn")?;
        require(block, "user turn's block", &["kind"], JsonKind::String)?;
        require(block, "user turn's block", &["byteLen", "approxTokens"], JsonKind::Number)?;
    }
    Ok(())
}
