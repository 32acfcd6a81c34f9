//! The primitives that the exchange synchronises with; the shuttle tests put shuttle's in their place.

pub(super) use crossbeam_channel::{Receiver, Sender};
pub(super) use std::sync::Mutex;
pub(super) use std::sync::atomic::AtomicBool;
