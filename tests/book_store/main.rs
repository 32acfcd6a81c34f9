//! Tests of books through their interface: recorded stores of the published crate, every method of `Store` compared
//! with that crate, random histories compared with a model, and damage. No test here starts a process, because a child
//! has copies of the published crate's locks until its `exec`.
#![cfg(feature = "book")]
#![allow(clippy::unwrap_used)]

mod conformance;
mod damage;
mod golden;
mod mended;
mod model;
mod support;
