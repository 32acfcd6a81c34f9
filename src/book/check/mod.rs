//! Checks a store without changing it: every segment, snapshot and run, against its checksum and against the others.
//!
//! Holds the lock where there is one, so that no store writes meanwhile. Scratch data goes to the temporary directory. Guarantees:
//! everything that is wrong is found, with file and byte offset; damage in one file does not keep the others, nor the rest
//! of that file, from being checked.

mod derived;
mod log;
mod report;
mod run;
mod subject;

pub use report::{BookFinding, BookFindingKind, BookProblem, BookReport, BookStatus, Unbalanced};
pub use run::{check, status};
