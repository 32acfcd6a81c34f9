//! Reading append-only files: lines, and the JSON inside them.

pub mod json;
