//! The journal against a model: a map from offset to payload that forgets nothing but what cleanup deletes.

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Batch(Vec<usize>),
    Guarded(Vec<usize>),
    Reopen { from_mark: bool },
    MoveCursor { records: usize },
    Cleanup,
    Recover,
}

fn step() -> impl Strategy<Value = Step> {
    let len = || prop_oneof![4 => 0usize..60, 1 => 200usize..700];
    prop_oneof![
        5 => len().prop_map(Step::Append),
        2 => proptest::collection::vec(len(), 0..6).prop_map(Step::Batch),
        1 => proptest::collection::vec(len(), 0..4).prop_map(Step::Guarded),
        2 => any::<bool>().prop_map(|from_mark| Step::Reopen { from_mark }),
        2 => (0usize..6).prop_map(|records| Step::MoveCursor { records }),
        1 => Just(Step::Cleanup),
        1 => Just(Step::Recover),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_journal_behaves_like_a_map_of_offsets(steps in proptest::collection::vec(step(), 1..30)) {
        let directory = tempfile::tempdir().unwrap();
        let options = JournalOptions { durability: DurabilityLevel::Os, ..small_segments(500) };
        let mut journal = Some(open_with(directory.path(), options.clone()).unwrap());
        let mut cursor = Cursor::open(directory.path(), "model").unwrap();
        let mut model: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut end = 0;
        let mut fill = 0u8;
        for step in steps {
            let open = journal.as_ref().unwrap();
            let mut payloads = |lens: &[usize]| -> Vec<Vec<u8>> {
                lens.iter().map(|len| { fill = fill.wrapping_add(1); vec![fill; *len] }).collect()
            };
            let mut remember = |offset: u64, payload: Vec<u8>| {
                assert_eq!(offset, end);
                end += 40 + payload.len() as u64;
                model.insert(offset, payload);
            };
            match step {
                Step::Append(len) => {
                    let payload = payloads(&[len]).remove(0);
                    remember(open.append(&payload).unwrap(), payload);
                }
                Step::Batch(lens) => {
                    let payloads = payloads(&lens);
                    let offsets = open.append_batch(&payloads).unwrap();
                    offsets.into_iter().zip(payloads).for_each(|(offset, payload)| remember(offset, payload));
                }
                Step::Guarded(lens) => {
                    let mut guard = open.fsync_guard();
                    for payload in payloads(&lens) {
                        remember(guard.append(&payload).unwrap(), payload);
                    }
                    guard.commit().unwrap();
                    prop_assert!(lens.is_empty() || open.synced() == end);
                }
                Step::Reopen { from_mark } => {
                    journal.take().unwrap().close().unwrap();
                    let check = if from_mark { OpenCheck::FromSyncedMark } else { OpenCheck::Everything };
                    let (reopened, report) = crate::journal::open(directory.path(), &JournalOptions { check, ..options.clone() }).unwrap();
                    if from_mark {
                        prop_assert!(report.checked_from <= end && end - report.checked_from < 64 << 10);
                    }
                    journal = Some(reopened);
                }
                Step::MoveCursor { records } => {
                    let to = model.keys().copied().find(|at| *at >= cursor.offset()).unwrap_or(end);
                    let to = model.range(to..).nth(records).map_or(end, |(offset, _)| *offset);
                    cursor.set(to).unwrap();
                }
                Step::Cleanup => {
                    let report = open.cleanup().unwrap();
                    prop_assert!(report.start <= cursor.offset());
                    model.retain(|offset, _| *offset >= report.start);
                }
                Step::Recover => {
                    journal.take().unwrap().close().unwrap();
                    let report = recover(directory.path(), OnCorruption::Refuse).unwrap();
                    prop_assert_eq!((report.records, report.end), (model.len() as u64, end));
                    prop_assert!(report.recovery.is_empty() && report.quarantined.is_empty());
                    journal = Some(open_with(directory.path(), options.clone()).unwrap());
                }
            }
            prop_assert_eq!(journal.as_ref().unwrap().end(), end);
        }
        prop_assert_eq!(read_all(directory.path()), model);
    }
}
