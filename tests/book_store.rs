//! Books, seen from outside: the recorded stores of the published crate, every method of `Store` beside that crate,
//! histories drawn at random beside a model, and damage.
#![cfg(feature = "book")]
#![allow(clippy::unwrap_used)]

#[path = "book_store/conformance.rs"]
mod conformance;
#[path = "book_store/damage.rs"]
mod damage;
#[path = "book_store/golden.rs"]
mod golden;
#[path = "book_store/mended.rs"]
mod mended;
#[path = "book_store/model.rs"]
mod model;
#[path = "book_store/support.rs"]
mod support;
