//! Tests of the house itself: its public interface, and which module may use which.
#![allow(clippy::unwrap_used)]

mod public_api;
mod rings;
mod rooms;
