//! The synchronisation primitives of the exchange; the shuttle tests replace them with shuttle's.

pub(super) use crossbeam_channel::{Receiver, Sender};
pub(super) use std::sync::Mutex;
pub(super) use std::sync::atomic::AtomicBool;
