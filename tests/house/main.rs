//! Tests of the structure: the public interface, and the modules that a module may use.
#![allow(clippy::unwrap_used)]

mod modules;
mod public_api;
mod rings;
mod type_names;
