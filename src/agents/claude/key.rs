//! Ids of lines, packed.

use std::hash::{Hash, Hasher};

use bumpalo::Bump;

/// An id of a line. Most are UUIDs, which need 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key<'t> {
    Uuid([u8; 16]),
    Text(&'t [u8]),
}

/// A hash of a text.
pub(super) fn hash(text: &[u8]) -> u64 {
    u64::from_le_bytes(blake3::hash(text).as_bytes()[..8].try_into().unwrap_or_default())
}

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Key::Uuid(_) => state.write_u64(self.hash()),
            Key::Text(text) => text.hash(state),
        }
    }
}

impl<'t> Key<'t> {
    pub(super) fn of(wtf8: &'t [u8]) -> Self {
        match Self::uuid(wtf8) {
            Some(bytes) => Key::Uuid(bytes),
            None => Key::Text(wtf8),
        }
    }

    /// The key with its text in the given memory.
    pub(super) fn kept(self, texts: &Bump) -> Key<'_> {
        match self {
            Key::Uuid(bytes) => Key::Uuid(bytes),
            Key::Text(text) => Key::Text(texts.alloc_slice_copy(text)),
        }
    }

    /// The bytes of a UUID in its usual form. The text can be made again from them.
    fn uuid(wtf8: &[u8]) -> Option<[u8; 16]> {
        // Only the usual form has this length.
        if wtf8.len() != 36 || wtf8.iter().any(u8::is_ascii_uppercase) {
            return None;
        }
        uuid::Uuid::try_parse_ascii(wtf8).ok().map(uuid::Uuid::into_bytes)
    }

    /// A hash of the id.
    pub(super) fn hash(&self) -> u64 {
        match self {
            // Most bits of a UUID are random.
            Key::Uuid(bytes) => (u128::from_le_bytes(*bytes) ^ u128::from_le_bytes(*bytes) >> 64) as u64,
            Key::Text(text) => hash(text),
        }
    }

    pub(super) fn text(&self) -> Vec<u8> {
        match self {
            Key::Uuid(bytes) => uuid::Uuid::from_bytes(*bytes).hyphenated().to_string().into_bytes(),
            Key::Text(text) => text.to_vec(),
        }
    }
}
