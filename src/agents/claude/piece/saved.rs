//! Keeps the state at a cursor between two runs, so that a log that grows is not read from its beginning each time.
//!
//! Touches `ingest.state/` of the home: a file for each large log. The file is derived and valid for one cursor of one
//! log. If it does not fit or is missing, the lines before the cursor are read. Layout: the 8 bytes of [`MAGIC`], 16
//! bytes of the BLAKE3 of the rest, the inode and the offset of the cursor (8 bytes each, little endian), then the
//! state as [`Packer`] writes it.

use std::path::Path;

use super::*;
use crate::agents::claude::packed::{Packer, Unpacker};
use crate::disk;

const MAGIC: &[u8; 8] = b"BURNSTA5";
const SUM_AT: usize = MAGIC.len();
const PLACE_AT: usize = SUM_AT + 16;
const BODY_AT: usize = PLACE_AT + 16;

/// A larger state is not kept, because the space would cost more than reading the log again.
const STATE_MAX_BYTES: usize = 64 << 20;

/// The log and the cursor that a state belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agents::claude) struct Place {
    pub inode: u64,
    pub offset: u64,
}

impl Place {
    fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.inode.to_le_bytes());
        bytes[8..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }
}

impl<'t> State<'t> {
    /// Returns the bytes of the file; none if the state is too large to be kept.
    pub(in crate::agents::claude) fn saved(&self, place: Place) -> Option<Vec<u8>> {
        // Growing the bytes would move them, and touch new memory each time.
        let mut packer = Packer(Vec::with_capacity(self.texts.allocated_bytes()));
        packer.0.extend_from_slice(&[&MAGIC[..], &[0; PLACE_AT - SUM_AT], &place.bytes()].concat());
        self.pack(&mut packer);
        let Packer(mut bytes) = packer;
        let sum = blake3::hash(&bytes[PLACE_AT..]);
        bytes[SUM_AT..PLACE_AT].copy_from_slice(&sum.as_bytes()[..PLACE_AT - SUM_AT]);
        (bytes.len() <= STATE_MAX_BYTES).then_some(bytes)
    }

    /// Reads the state that was kept for this log and cursor. Its texts stay in the bytes of the file, in the given memory.
    pub(in crate::agents::claude) fn load(path: &Path, place: Place, texts: &'t Bump) -> Option<Self> {
        let file = disk::File::open_read(path).ok()?;
        let len_bytes = usize::try_from(file.len_bytes().ok()?).ok()?;
        if !(BODY_AT..=STATE_MAX_BYTES + BODY_AT).contains(&len_bytes) {
            return None;
        }
        let bytes = texts.alloc_slice_fill_copy(len_bytes, 0);
        file.read_exact_at(bytes, 0).ok()?;
        let bytes = &*bytes;
        let is_sound = bytes.starts_with(MAGIC)
            && bytes[PLACE_AT..BODY_AT] == place.bytes()
            && bytes[SUM_AT..PLACE_AT] == blake3::hash(&bytes[PLACE_AT..]).as_bytes()[..16];
        is_sound.then(|| Self::unpack(&mut Unpacker(&bytes[BODY_AT..]), texts))?
    }

    fn pack(&self, packer: &mut Packer) {
        self.graph.pack(packer);
        self.evidence.pack(packer, self.marker_is_held);
        packer.count(self.calls.len() as u64);
        for (id, count) in &self.calls {
            packer.text(id);
            packer.count(*count as u64);
        }
        packer.count(self.events as u64);
        packer.maybe_text(self.last_message.as_deref());
        packer.maybe_text(self.prompt.as_deref());
        packer.count(self.known.len() as u64);
        for (id, known) in &self.known {
            packer.text(id);
            packer.count(known.cache_read.to_bits());
            packer.text(known.ts);
            packer.maybe_text(known.session);
        }
        packer.count(self.side_messages.len() as u64);
        self.side_messages.iter().for_each(|key| packer.key(key));
        packer.count(self.chains.len() as u64);
        for (line, first) in &self.chains {
            packer.key(line);
            packer.key(first);
        }
        packer.count(self.branches.len() as u64);
        for (session, branch) in &self.branches {
            packer.text(session);
            packer.text(branch);
        }
    }

    fn unpack(from: &mut Unpacker<'t>, texts: &'t Bump) -> Option<Self> {
        let state = State {
            graph: Graph::unpack(from, texts)?,
            evidence: Evidence::unpack(from)?,
            calls: from.each(|from| Some((from.text()?, from.count()? as usize)))?,
            events: from.count()? as usize,
            last_message: from.maybe_text()?.map(<[u8]>::to_vec),
            prompt: from.maybe_text()?.map(Arc::from),
            known: from.each(|from| {
                let id = from.text()?;
                let cache_read = f64::from_bits(from.count()?);
                let (ts, session) = (from.text()?, from.maybe_text()?);
                Some((id, KnownMessage { cache_read, ts, session }))
            })?,
            side_messages: from.each(Unpacker::key)?,
            chains: from.each(|from| Some((from.key()?, from.key()?)))?,
            branches: from.each(|from| Some((from.text()?.to_vec(), from.text()?.to_vec())))?,
            ..State::new(texts)
        };
        from.0.is_empty().then_some(state)
    }
}

impl Evidence {
    fn pack(&self, packer: &mut Packer, marker_is_held: bool) {
        for text in [&self.foreign, &self.first_ts, &self.version] {
            packer.maybe_text(text.as_deref());
        }
        packer.maybe(self.first_parent.as_ref(), |packer, parent| {
            packer.maybe(parent.as_deref(), |packer, parent| packer.key(&Key::of(parent)));
        });
        packer.maybe(self.marker.as_ref().filter(|_| !marker_is_held), |packer, target| {
            packer.maybe_text(target.as_deref());
        });
        for texts in [&self.forks, &self.continuations, &self.own_lines] {
            packer.count(texts.len() as u64);
            texts.iter().for_each(|text| packer.text(text));
        }
    }

    fn unpack(from: &mut Unpacker<'_>) -> Option<Self> {
        let text = |from: &mut Unpacker<'_>| from.text().map(<[u8]>::to_vec);
        Some(Evidence {
            foreign: from.maybe(text)?,
            first_ts: from.maybe(text)?,
            version: from.maybe(text)?,
            first_parent: from.maybe(|from| from.maybe(|from| from.key().map(|key| key.text())))?,
            marker: from.maybe(|from| from.maybe(text))?,
            forks: from.each(text)?,
            continuations: from.each(text)?,
            own_lines: from.each(text)?,
            ..Evidence::default()
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::scan::json::Document;

    #[test]
    fn a_state_is_what_it_was_and_only_where_it_fits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("states").join("a");
        let texts = Bump::new();
        let mut state = State::new(&texts);
        let key = |text: &'static str| Key::of(text.as_bytes());
        let uuid = "0d3b9a4e-1111-4222-8333-444455556666";
        let second = format!(r#"{{"uuid":"{uuid}","parentUuid":"u1"}}"#);
        for (line, text) in [(r#"{"uuid":"u1","isSidechain":true}"#, &b"find it"[..]), (&second, b"")] {
            let mut document = Document::default();
            let line = Line::of(document.parse(line.as_bytes()).unwrap()).unwrap();
            state.graph.add_user(&texts, &line, text);
        }
        state.evidence.first_parent = Some(None);
        state.evidence.marker = Some(Some(b"s2".to_vec()));
        state.evidence.forks = vec![b"f".to_vec()];
        state.evidence.own_lines = vec![b"o".to_vec()];
        state.calls.insert(b"t1", 300);
        state.events = 301;
        state.prompt = Some(Arc::from(&b"p"[..]));
        state.branches.insert(b"s1".to_vec(), b"main".to_vec());
        let known = KnownMessage { cache_read: 0.5, ts: b"T", session: None };
        state.known.insert(b"m", known);
        state.side_messages = vec![key("u1"), key(uuid)];
        state.chains.insert(key("u1"), key(uuid));
        let place = Place { inode: 7, offset: 1 << 40 };
        disk::create_dir_all(disk::parent_of(&path)).unwrap();
        std::fs::write(&path, state.saved(place).unwrap()).unwrap();
        let loaded = State::load(&path, place, &texts).unwrap();
        // Each hash table has one entry, because the order of entries is not fixed. The graph is compared by its sorted
        // uuids.
        let told = |state: &State<'_>| {
            let uuids: std::collections::BTreeSet<Vec<u8>> =
                state.graph.uuids().map(|key| key.text()).collect();
            format!(
                "{uuids:?} {:?} {:?} {} {:?} {:?} {:?} {:?} {:?}",
                state.evidence,
                state.calls,
                state.events,
                state.prompt,
                state.known,
                state.side_messages,
                state.chains,
                state.branches
            )
        };
        assert_eq!(told(&loaded), told(&state));
        assert!(State::load(&path, Place { offset: 5, ..place }, &texts).is_none());
        let bytes = std::fs::read(&path).unwrap();
        for at in (0..bytes.len()).step_by(3) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            assert!(State::load(&path, place, &texts).is_none(), "byte {at}");
            std::fs::write(&path, &bytes[..at]).unwrap();
            assert!(State::load(&path, place, &texts).is_none(), "cut to {at} bytes");
        }
        for len in 0..bytes.len() - BODY_AT {
            assert!(State::unpack(&mut Unpacker(&bytes[BODY_AT..][..len]), &texts).is_none(), "{len} bytes");
        }
    }
}
