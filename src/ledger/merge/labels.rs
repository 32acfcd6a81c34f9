//! The names of machines, as stamps: which turns of the inputs get the name of their input's machine.
//!
//! The tables of the archive are shared with other programs and get no column, so the name travels as the key `machine` of the
//! enrichment, which turns have. Computes the lines of the stamps, and reads lines for the ids in them.
//!
//! The stamps have the first times that there are, so that a stamp of a person, which has a later time, overrides them. A
//! session whose turns are in inputs of one machine gets one stamp. Where inputs of several machines have turns of a session,
//! or the target has some, each turn gets a stamp of its own, 1 ms later, because a stamp of the session would name a wrong
//! machine. Of two machines that have one turn, the name that is last in byte order counts.

use std::collections::HashMap;

use super::super::LedgerError;
use super::keys::{
    KeyReader, LABELS, LineClass, LineKey, MergePlace, RecordPlace, TARGET, text_hash, text_of,
};
use super::store::LineStore;
use crate::record::{ParsedLine, RecordKind, line_of};
use crate::scan::json::{Document, write_js_string};

const SESSION_TS: &str = "1970-01-01T00:00:00.000Z";
const TURN_TS: &str = "1970-01-01T00:00:00.001Z";

/// The stamps, and the text of their lines.
#[derive(Default)]
pub(super) struct MachineStamps {
    pub text: Vec<u8>,
    pub keys: Vec<LineKey>,
}

/// The inputs that have turns of a session.
struct SeenSession {
    /// A turn of it.
    place: MergePlace,
    /// The machine of every input that has turns of it.
    machine: Machine,
    is_in_target: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Machine {
    /// The number of a name.
    One(u32),
    /// Several, or unknown.
    Other,
}

/// Makes the stamps for the turns among `keys`. `machines` has the name of each input's machine.
pub(super) fn machine_stamps(
    keys: &[LineKey],
    machines: &[Option<String>],
    store: &LineStore<'_>,
) -> Result<MachineStamps, LedgerError> {
    let mut names: Vec<&str> = machines.iter().flatten().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Ok(MachineStamps::default());
    }
    let number = |name: &Option<String>| {
        let place = name.as_deref().and_then(|name| names.binary_search(&name).ok());
        place.map_or(Machine::Other, |place| Machine::One(place as u32))
    };
    let of_input: Vec<Machine> = machines.iter().map(number).collect();
    let turn = LineClass::Record(RecordPlace::of(RecordKind::Turn));
    let turns = || keys.iter().filter(|line| line.class == turn && line.place.input != LABELS);
    let mut sessions: HashMap<u64, SeenSession> = HashMap::new();
    for line in turns().filter(|line| line.place.input != TARGET) {
        let machine = of_input[line.place.input as usize];
        let seen = SeenSession { place: line.place, machine, is_in_target: false };
        let seen = sessions.entry(line.session).or_insert(seen);
        if seen.machine != machine {
            seen.machine = Machine::Other;
        }
        seen.place = seen.place.min(line.place);
    }
    for line in turns().filter(|line| line.place.input == TARGET) {
        if let Some(seen) = sessions.get_mut(&line.session) {
            seen.is_in_target = true;
        }
    }
    let mut writer =
        StampWriter { store, names: &names, stamps: MachineStamps::default(), ..StampWriter::new(store) };
    let mut target_stamps = None;
    for seen in sessions.values_mut() {
        let Machine::One(machine) = seen.machine else { continue };
        let before = writer.stamps.text.len();
        writer.write(seen.place, Selected::Session, machine)?;
        if seen.is_in_target {
            let target_stamps = target_stamps.get_or_insert_with(|| stamps_of_target(keys));
            let text = text_hash(&writer.stamps.text[before..]);
            if target_stamps.binary_search(&text).is_err() {
                // The target has turns of this session that may be of another machine.
                writer.take_back(before);
                seen.machine = Machine::Other;
            }
        }
    }
    let is_apart =
        |line: &&LineKey| sessions.get(&line.session).is_some_and(|seen| seen.machine == Machine::Other);
    // The machine of each turn that gets a stamp of its own; `None` for a turn of the target, which keeps its stamps.
    let mut apart: HashMap<u64, Option<(u32, MergePlace)>> = HashMap::new();
    for line in turns().filter(is_apart) {
        match of_input.get(line.place.input as usize) {
            None => {
                apart.insert(line.key, None);
            }
            Some(Machine::One(machine)) => {
                let found = apart.entry(line.key).or_insert(Some((*machine, line.place)));
                if let Some((named, _)) = found {
                    *named = (*named).max(*machine);
                }
            }
            Some(Machine::Other) => {}
        }
    }
    for (machine, place) in apart.into_values().flatten() {
        writer.write(place, Selected::Turn, machine)?;
    }
    Ok(writer.stamps)
}

/// The texts of the target's stamps, in order.
fn stamps_of_target(keys: &[LineKey]) -> Vec<[u64; 2]> {
    let is_stamp = |line: &&LineKey| line.class == LineClass::Stamp && line.place.input == TARGET;
    let mut stamps: Vec<[u64; 2]> = keys.iter().filter(is_stamp).map(|line| line.text).collect();
    stamps.sort_unstable();
    stamps
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Selected {
    Session,
    Turn,
}

struct StampWriter<'s> {
    store: &'s LineStore<'s>,
    names: &'s [&'s str],
    stamps: MachineStamps,
    reader: KeyReader,
    document: Document,
    buffer: Vec<u8>,
}

impl<'s> StampWriter<'s> {
    fn new(store: &'s LineStore<'s>) -> Self {
        let (reader, document) = (KeyReader::default(), Document::default());
        Self { store, names: &[], stamps: MachineStamps::default(), reader, document, buffer: Vec::new() }
    }

    /// Adds the stamp for the session of the turn at `place`, or for this turn alone.
    fn write(&mut self, place: MergePlace, selected: Selected, machine: u32) -> Result<(), LedgerError> {
        let line = self.store.text(place, &mut self.buffer)?;
        // The line was a turn when its key was made.
        let Ok(root) = self.document.parse(line) else { return Ok(()) };
        let ParsedLine::Record(_, turn) = line_of(root) else { return Ok(()) };
        let [session, message] = ["sessionId", "messageId"].map(|key| text_of(turn.get(key)));
        let (Some(session), Some(message)) = (session, message) else { return Ok(()) };
        let MachineStamps { text, keys } = &mut self.stamps;
        let start = text.len();
        let ts = if selected == Selected::Session { SESSION_TS } else { TURN_TS };
        text.extend_from_slice(
            format!(r#"{{"v":1,"kind":"stamp","ts":"{ts}","selector":{{"sessionId":"#).as_bytes(),
        );
        write_js_string(session, text);
        if selected == Selected::Turn {
            text.extend_from_slice(br#","messageId":"#);
            write_js_string(message, text);
        }
        text.extend_from_slice(br#"},"enrichment":{"machine":"#);
        write_js_string(self.names[machine as usize].as_bytes(), text);
        text.extend_from_slice(b"}}");
        let place =
            MergePlace { input: LABELS, offset: start as u64, len_bytes: (text.len() - start) as u64 };
        keys.extend(self.reader.line(place, &text[start..]).ok().flatten());
        Ok(())
    }

    /// Removes the last stamp, which begins at `start`.
    fn take_back(&mut self, start: usize) {
        if start < self.stamps.text.len() {
            self.stamps.text.truncate(start);
            self.stamps.keys.pop();
        }
    }
}
