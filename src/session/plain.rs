//! Entries as plain JSON Lines, the form of an agent's session file.
//!
//! Guarantees: [`parse_import_line`] reads every line of [`export_line`] as the same entry: id, parent, type and payload, byte for
//! byte.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::error::SessionError;
use super::format::SegmentFrame;
use super::payload::{EntryPayload, NewEntry};

/// The type of the first line of a session file, which describes the session and is not an entry.
const HEADER_TYPE: &str = "session";

/// A line of plain JSON Lines.
#[derive(Debug, Clone)]
pub enum ImportLine<'a> {
    /// An entry.
    Entry(NewEntry<'a>),
    /// The header of a session file, with the session's id if there is one.
    Header(Option<String>),
}

/// The members of both forms of a line.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
struct ImportFields<'a> {
    #[serde(borrow, default)]
    entry_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    parent_entry_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    entry_type: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    parent_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type")]
    session_type: Option<Cow<'a, str>>,
}

/// The value of a member that is there. `null` is a value, too.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(member: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(member).map(Some)
}

/// Reads a line of plain JSON Lines as an entry.
///
/// A line is an entry with its payload inside, `{"entryId":…,"parentEntryId":…,"entryType":…,"payload":…}`, or a line of a
/// session file, `{"type":…,"id":…,"parentId":…,…}`, which as a whole is the payload.
///
/// # Errors
/// [`SessionError::InvalidArgument`] with the reason. The caller adds the file and the line.
pub fn parse_import_line(line: &str) -> Result<NewEntry<'_>, SessionError> {
    entry_of(line, parse(line)?)
}

/// Reads the first line of plain JSON Lines: an entry as of [`parse_import_line`], or the header of a session file, of type
/// `session`.
///
/// # Errors
/// As [`parse_import_line`].
pub fn parse_first_import_line(line: &str) -> Result<ImportLine<'_>, SessionError> {
    let fields = parse(line)?;
    let is_header = fields.session_type.as_deref() == Some(HEADER_TYPE) && fields.parent_id.is_none();
    if is_header && !fields.is_whole() {
        return Ok(ImportLine::Header(fields.id.map(Cow::into_owned)));
    }
    entry_of(line, fields).map(ImportLine::Entry)
}

fn parse(line: &str) -> Result<ImportFields<'_>, SessionError> {
    serde_json::from_str(line).map_err(|error| {
        // The line of the input is the caller's to name.
        let text = error.to_string();
        let said = text.rfind(" at line ").map_or(&*text, |end| &text[..end]);
        invalid(format!("{said} at byte {} of the line", error.column().saturating_sub(1)))
    })
}

impl ImportFields<'_> {
    /// Whether the line is an entry with its payload inside.
    fn is_whole(&self) -> bool {
        self.entry_id.is_some() && self.entry_type.is_some() && self.payload.is_some()
    }
}

fn entry_of<'a>(line: &'a str, fields: ImportFields<'a>) -> Result<NewEntry<'a>, SessionError> {
    match (fields.entry_id, fields.entry_type, fields.payload) {
        (Some(id), Some(entry_type), Some(payload)) => Ok(NewEntry {
            id,
            parent_id: fields.parent_entry_id,
            entry_type,
            payload: EntryPayload::verbatim(payload.get())?,
        }),
        _ if fields.session_type.is_none() => Err(invalid(
            "neither an entry (entryId, entryType, payload) nor a session line (type, id)".to_owned(),
        )),
        _ => frame_args(line, fields.session_type, fields.id, fields.parent_id),
    }
}

/// Returns what to append for a session entry, a line of a session file: its id, parent and type, and the whole line as payload.
///
/// # Errors
/// [`SessionError::InvalidArgument`] when the text is not a JSON object with an id and a type.
pub fn session_entry_to_frame_args(entry: &str) -> Result<NewEntry<'_>, SessionError> {
    let ImportFields { session_type, id, parent_id, .. } = parse(entry)?;
    frame_args(entry, session_type, id, parent_id)
}

fn frame_args<'a>(
    entry: &'a str,
    entry_type: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    parent_id: Option<Cow<'a, str>>,
) -> Result<NewEntry<'a>, SessionError> {
    let entry_type = entry_type.ok_or_else(|| invalid("a session entry without a type".to_owned()))?;
    let id = id.ok_or_else(|| invalid(format!("a session line of type {entry_type:?} without an id")))?;
    Ok(NewEntry { id, parent_id, entry_type, payload: EntryPayload::verbatim(entry)? })
}

fn invalid(reason: String) -> SessionError {
    SessionError::InvalidArgument { reason }
}

/// Returns the payload of a frame as a session entry, whose id, parent and type must be those of the frame.
///
/// # Errors
/// [`SessionError::NotASessionEntry`] when the payload is no session entry, or has another id, parent or type.
pub fn frame_to_session_entry(frame: &SegmentFrame) -> Result<NewEntry<'_>, SessionError> {
    let failed = |reason: String| SessionError::NotASessionEntry {
        entry_seq: frame.entry_seq,
        entry_id: frame.entry_id.clone(),
        reason,
    };
    let entry =
        session_entry_to_frame_args(frame.payload.get()).map_err(|error| failed(error.to_string()))?;
    if entry.id != frame.entry_id {
        Err(failed(format!("its id is {:?}", entry.id)))
    } else if entry.parent_id.as_deref() != frame.parent_entry_id.as_deref() {
        Err(failed(format!("its parentId is {:?}", entry.parent_id)))
    } else if entry.entry_type != frame.entry_type {
        Err(failed(format!("its type is {:?}", entry.entry_type)))
    } else {
        Ok(entry)
    }
}

/// Returns an entry as a line of plain JSON Lines, without LF: its payload alone where the payload has the same id, parent and
/// type, else an object with all of them.
pub fn export_line(frame: &SegmentFrame) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Whole<'a> {
        entry_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        parent_entry_id: Option<&'a str>,
        entry_type: &'a str,
        timestamp: &'a str,
        payload: &'a RawValue,
    }
    if let Ok(ImportLine::Entry(read)) = parse_first_import_line(frame.payload.get())
        && read.id == frame.entry_id
        && read.parent_id.as_deref() == frame.parent_entry_id.as_deref()
        && read.entry_type == frame.entry_type
        && read.payload.get() == frame.payload.get()
    {
        return frame.payload.get().to_owned();
    }
    let whole = Whole {
        entry_id: &frame.entry_id,
        parent_entry_id: frame.parent_entry_id.as_deref(),
        entry_type: &frame.entry_type,
        timestamp: &frame.timestamp,
        payload: &frame.payload,
    };
    // Texts always serialise, and the payload is JSON already.
    serde_json::to_string(&whole).unwrap_or_default()
}
