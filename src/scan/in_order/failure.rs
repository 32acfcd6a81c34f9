//! Reasons why ordered work ended early.

use std::any::Any;

/// Why the work ended early.
pub(crate) enum WorkFailure<E> {
    /// The work on a job, or the taking of its result, failed.
    Work(E),
    /// The work on job `number` panicked.
    Panic {
        number: u64,
        /// The payload of the panic. The session store has no error for a panic, so it resumes the panic with this payload.
        #[cfg_attr(not(feature = "session"), allow(dead_code))]
        payload: Box<dyn Any + Send>,
    },
}

impl<E> From<E> for WorkFailure<E> {
    fn from(error: E) -> Self {
        Self::Work(error)
    }
}
