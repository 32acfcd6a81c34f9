//! Ids of lines, packed.

/// An id of a line. Most are UUIDs, which need 16 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Uuid([u8; 16]),
    Text(Box<[u8]>),
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

    pub(super) fn text(&self) -> Vec<u8> {
        match self {
            Key::Uuid(bytes) => uuid::Uuid::from_bytes(*bytes).hyphenated().to_string().into_bytes(),
            Key::Text(text) => text.to_vec(),
        }
    }
}
