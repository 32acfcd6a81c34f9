//! Tests of the books from outside: the recorded stores of the published crate, every method of `Store` beside that crate,
//! random histories beside a model, and damage. No test here starts a process, because a child has copies of
//! the published crate's locks until its `exec`.
#![cfg(feature = "book")]
#![allow(clippy::unwrap_used)]

mod conformance;
mod damage;
mod golden;
mod mended;
mod model;
mod support;
