//! The queue under every order of callers, writer and close that shuttle's schedulers come up with, and the real thing.

use super::*;
use crate::journal::JournalOptions;
use shuttle::future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Enough schedules for the gate; `SHUTTLE_ITERATIONS` asks for more.
fn iterations() -> usize {
    std::env::var("SHUTTLE_ITERATIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(2_000)
}

fn explore(scenario: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(scenario.clone(), iterations());
    shuttle::check_pct(scenario, iterations(), 3);
}

/// What the writer's side stands for in these tests: a log whose records become durable when a commit ends.
#[derive(Default)]
struct Log {
    written: Vec<Vec<u8>>,
    fails_from: Option<usize>,
}

impl Log {
    fn commit(&mut self, batch: &[CommitRequest]) -> Result<Vec<u64>, JournalError> {
        if self.fails_from.is_some_and(|from| self.written.len() + batch.len() > from) {
            return Err(JournalError::Closed);
        }
        let first = self.written.len() as u64;
        self.written.extend(batch.iter().map(|request| request.record.bytes().to_vec()));
        Ok((first..self.written.len() as u64).collect())
    }
}

/// Five callers, a queue of two records and few bytes, and a close at any moment.
fn callers_against_close(fails_from: Option<usize>) {
    let options = GroupCommitOptions { queue_records: 2, queue_bytes: 100 };
    let (queue, receiver) = CommitQueue::new(&options);
    let queue = Arc::new(queue);
    let log = Arc::new(Mutex::new(Log { fails_from, ..Log::default() }));
    let was_closed = Arc::new(AtomicBool::new(false));
    let writer = {
        let log = log.clone();
        future::spawn(serve(receiver, 2, move |batch| {
            assert!(batch.len() <= 2, "a batch is bounded");
            log.lock().unwrap().commit(batch)
        }))
    };
    let callers: Vec<_> = (0..5u8)
        .map(|caller| {
            let (queue, log, was_closed) = (queue.clone(), log.clone(), was_closed.clone());
            future::spawn(async move {
                // 41 bytes for the small ones; the large one exceeds the room and waits until it is alone.
                let payload = vec![caller; if caller == 4 { 200 } else { 1 }];
                let record = EncodedRecord::new(&payload);
                let bytes = record.bytes().to_vec();
                let closed_before = was_closed.load(Ordering::SeqCst);
                match queue.append(record).await {
                    Ok(at) => {
                        assert_eq!(log.lock().unwrap().written[at as usize], bytes, "answered means written");
                        assert!(!closed_before, "nothing is taken after close returned");
                        true
                    }
                    Err(JournalError::Closed) => false,
                    Err(other) => panic!("{other}"),
                }
            })
        })
        .collect();
    let closer = {
        let (queue, was_closed) = (queue.clone(), was_closed.clone());
        future::spawn(async move {
            future::yield_now().await;
            queue.close();
            was_closed.store(true, Ordering::SeqCst);
        })
    };
    future::block_on(async {
        closer.await.unwrap();
        let mut answered = 0;
        for caller in callers {
            answered += usize::from(caller.await.unwrap());
        }
        // Ends only because every sender is gone: a hang here is a deadlock that shuttle reports.
        writer.await.unwrap();
        assert_eq!(log.lock().unwrap().written.len(), answered, "written means answered");
    });
}

#[test]
fn everybody_is_answered_whenever_the_queue_closes() {
    explore(|| callers_against_close(None));
}

#[test]
fn everybody_is_answered_when_commits_fail() {
    explore(|| callers_against_close(Some(2)));
}

/// The canary: a writer that answers before it writes is caught in some schedule.
#[test]
#[should_panic(expected = "index out of bounds")]
fn an_answer_before_the_write_is_caught() {
    shuttle::check_random(
        || {
            let (queue, receiver) = CommitQueue::new(&GroupCommitOptions::default());
            let log = Arc::new(Mutex::new(Log::default()));
            let hasty = log.clone();
            let writer = future::spawn(serve(receiver, 8, move |batch| {
                let log = hasty.clone();
                let late: Vec<Vec<u8>> = batch.iter().map(|one| one.record.bytes().to_vec()).collect();
                let first = log.lock().unwrap().written.len() as u64;
                let count = late.len() as u64;
                future::spawn(async move { log.lock().unwrap().written.extend(late) });
                Ok((first..first + count).collect())
            }));
            future::block_on(async {
                let at = queue.append(EncodedRecord::new(b"a")).await.unwrap();
                assert_eq!(log.lock().unwrap().written[at as usize].len(), 41);
                queue.close();
                writer.await.unwrap();
            });
        },
        iterations(),
    );
}

#[test]
fn a_caller_that_gives_up_leaves_the_others_alone() {
    explore(|| {
        let (queue, receiver) = CommitQueue::new(&GroupCommitOptions { queue_records: 1, queue_bytes: 41 });
        let queue = Arc::new(queue);
        let log = Arc::new(Mutex::new(Log::default()));
        let writer = {
            let log = log.clone();
            future::spawn(serve(receiver, 1, move |batch| log.lock().unwrap().commit(batch)))
        };
        let impatient = {
            let queue = queue.clone();
            future::spawn(async move {
                let _ = queue.append(EncodedRecord::new(b"a")).await;
            })
        };
        let patient = {
            let queue = queue.clone();
            future::spawn(async move { queue.append(EncodedRecord::new(b"b")).await })
        };
        future::block_on(async {
            future::yield_now().await;
            impatient.abort();
            patient.await.unwrap().unwrap();
            queue.close();
            writer.await.unwrap();
        });
    });
}

#[test]
fn many_tasks_share_few_syncs_and_find_their_records() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Arc::new(Journal::open(directory.path()).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let options = GroupCommitOptions { queue_records: 16, queue_bytes: 2000 };
    let buffer = Arc::new(GroupCommitBuffer::new(journal.clone(), options).unwrap());
    let offsets = runtime.block_on(async {
        let tasks: Vec<_> = (0..32u8)
            .map(|task| {
                let buffer = buffer.clone();
                tokio::spawn(async move {
                    let mut offsets = Vec::new();
                    for number in 0..20u8 {
                        let payload = vec![task; 10 + usize::from(number)];
                        offsets.push((buffer.append(&payload).await.unwrap(), payload));
                    }
                    offsets
                })
            })
            .collect();
        let mut offsets = Vec::new();
        for task in tasks {
            offsets.extend(task.await.unwrap());
        }
        buffer.close().await;
        buffer.close().await;
        assert!(matches!(buffer.append(b"late").await, Err(JournalError::Closed)));
        offsets
    });
    assert_eq!(journal.synced(), journal.end());
    let mut reader = journal.reader().unwrap();
    for (offset, payload) in offsets {
        assert_eq!(reader.read(offset).unwrap().unwrap().payload, payload);
    }
}

#[test]
fn a_payload_over_the_limit_never_reaches_the_queue() {
    let directory = tempfile::tempdir().unwrap();
    let options = JournalOptions { max_payload_bytes: 3, ..JournalOptions::default() };
    let journal = Arc::new(crate::journal::open(directory.path(), &options).unwrap().0);
    let buffer = GroupCommitBuffer::new(journal, GroupCommitOptions::default()).unwrap();
    let mut outcome = None;
    block_on(async { outcome = Some(buffer.append(b"four").await) });
    assert!(matches!(outcome, Some(Err(JournalError::PayloadTooLarge { len_bytes: 4, .. }))));
    block_on(buffer.close());
}
