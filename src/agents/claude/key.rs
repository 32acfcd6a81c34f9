//! Ids of lines, packed.

/// An id of a line. Most are UUIDs, which need 16 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Uuid([u8; 16]),
    Text(Box<[u8]>),
}

/// A hash of a text.
pub(super) fn hash(text: &[u8]) -> u64 {
    u64::from_le_bytes(blake3::hash(text).as_bytes()[..8].try_into().unwrap_or_default())
}

impl Key {
    pub(super) fn of(wtf8: &[u8]) -> Self {
        match Self::uuid(wtf8) {
            Some(bytes) => Key::Uuid(bytes),
            None => Key::Text(wtf8.into()),
        }
    }

    /// The bytes of a UUID in its usual form. The text can be made again from them.
    fn uuid(wtf8: &[u8]) -> Option<[u8; 16]> {
        let text = std::str::from_utf8(wtf8).ok().filter(|text| text.len() == 36)?;
        let uuid = uuid::Uuid::try_parse(text).ok()?;
        let mut buffer = uuid::Uuid::encode_buffer();
        (uuid.hyphenated().encode_lower(&mut buffer) == text).then(|| uuid.into_bytes())
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
