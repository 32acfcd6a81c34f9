//! Packs numbers and texts into the bytes of a derived file, and reads them again. Texts that were read stay where they are.

use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;

use super::key::Key;

/// Writes.
#[derive(Debug, Default)]
pub(super) struct Packer(pub Vec<u8>);

impl Packer {
    /// Appends a number with seven bits a byte, the lowest bits first. The last byte is below 128.
    pub(super) fn count(&mut self, mut count: u64) {
        while count >= 0x80 {
            self.0.push(count as u8 | 0x80);
            count >>= 7;
        }
        self.0.push(count as u8);
    }

    pub(super) fn flag(&mut self, flag: bool) {
        self.count(u64::from(flag));
    }

    pub(super) fn text(&mut self, text: &[u8]) {
        self.count(text.len() as u64);
        self.0.extend_from_slice(text);
    }

    pub(super) fn maybe<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            put(self, value);
        }
    }

    pub(super) fn maybe_text(&mut self, text: Option<&[u8]>) {
        self.maybe(text, |packer, text| packer.text(text));
    }

    pub(super) fn key(&mut self, key: &Key<'_>) {
        match key {
            Key::Uuid(bytes) => {
                self.flag(true);
                self.0.extend_from_slice(bytes);
            }
            Key::Text(text) => {
                self.flag(false);
                self.text(text);
            }
        }
    }
}

/// Reads values. Returns none where the bytes end too early.
pub(super) struct Unpacker<'b>(pub &'b [u8]);

impl<'b> Unpacker<'b> {
    pub(super) fn count(&mut self) -> Option<u64> {
        let mut count = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            count |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(count);
            }
        }
        None
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        Some(self.count()? != 0)
    }

    pub(super) fn text(&mut self) -> Option<&'b [u8]> {
        let len_bytes = usize::try_from(self.count()?).ok()?;
        let (text, rest) = self.0.split_at_checked(len_bytes)?;
        self.0 = rest;
        Some(text)
    }

    pub(super) fn maybe<T>(&mut self, get: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.flag()? {
            true => Some(Some(get(self)?)),
            false => Some(None),
        }
    }

    pub(super) fn maybe_text(&mut self) -> Option<Option<&'b [u8]>> {
        self.maybe(Self::text)
    }

    pub(super) fn key(&mut self) -> Option<Key<'b>> {
        if !self.flag()? {
            return Some(Key::Text(self.text()?));
        }
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(Key::Uuid(*bytes))
    }

    /// Reads as many values as the bytes say.
    pub(super) fn each<T, C: Default + Extend<T>>(
        &mut self,
        get: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<C> {
        let mut values = PackedValues { left: self.count()?, from: self, get, is_cut: false };
        let mut all = C::default();
        all.extend(&mut values);
        (!values.is_cut).then_some(all)
    }

    /// Reads as many values as the bytes say into the given memory.
    pub(super) fn list<'t, T>(
        &mut self,
        texts: &'t Bump,
        get: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<&'t [T]> {
        let mut values = PackedValues { left: self.count()?, from: self, get, is_cut: false };
        let all = BumpVec::from_iter_in(&mut values, texts);
        (!values.is_cut).then(|| all.into_bump_slice())
    }
}

/// Values of which `left` are not read yet. A collection takes the memory for them at once, because growing the tables of a
/// state of 1.4 MB took a third of its reading.
struct PackedValues<'u, 'b, F> {
    from: &'u mut Unpacker<'b>,
    get: F,
    left: u64,
    /// Whether the bytes have ended too early.
    is_cut: bool,
}

impl<'b, T, F: FnMut(&mut Unpacker<'b>) -> Option<T>> Iterator for PackedValues<'_, 'b, F> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.left = self.left.checked_sub(1)?;
        let value = (self.get)(self.from);
        if value.is_none() {
            (self.left, self.is_cut) = (0, true);
        }
        value
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.min(1 << 16) as usize, None)
    }
}
