//! The lines of a merge by their places: of the inputs, of the target and of the stamps that name machines. Reads only.

use std::path::Path;

use super::super::LedgerError;
use super::keys::{LABELS, MergePlace, TARGET};
use super::report::LedgerLineAt;
use crate::scan::Source;
use crate::scan::json::trim_js;

/// An input that is open.
pub(super) struct OpenInput<'i> {
    /// The name for messages.
    pub name: &'i Path,
    pub source: Source,
    /// The offset after the last LF.
    pub end: u64,
}

/// All lines of a merge.
pub(super) struct LineStore<'s> {
    pub inputs: &'s [OpenInput<'s>],
    pub target: Option<&'s Source>,
    pub target_name: &'s Path,
    pub labels: &'s [u8],
}

impl<'s> LineStore<'s> {
    /// The text of a line, without white space at its ends.
    pub(super) fn text<'b>(
        &'b self,
        place: MergePlace,
        buffer: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], LedgerError> {
        let range = place.offset..place.offset + place.len_bytes;
        let bytes = match place.input {
            LABELS => &self.labels[range.start as usize..range.end as usize],
            input => match self.source(input) {
                Some(source) => source.bytes(range, buffer)?,
                None => &[],
            },
        };
        Ok(trim_js(bytes))
    }

    fn source(&self, input: u32) -> Option<&'s Source> {
        match input {
            TARGET => self.target,
            input => self.inputs.get(input as usize).map(|input| &input.source),
        }
    }

    /// Checks that no ledger was cut since it was opened, because a map of a file that was cut has zeros after its new end.
    pub(super) fn check_lens(&self) -> Result<(), LedgerError> {
        let sources = self.inputs.iter().map(|input| &input.source).chain(self.target);
        for source in sources {
            source.check_len()?;
        }
        Ok(())
    }

    /// The line as findings name it.
    pub(super) fn at(&self, place: MergePlace) -> LedgerLineAt {
        let name = self.inputs.get(place.input as usize).map_or(self.target_name, |input| input.name);
        LedgerLineAt { ledger: name.to_owned(), offset: place.offset, length: place.len_bytes }
    }
}
