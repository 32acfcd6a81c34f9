//! Damage of every kind: what is a torn write is cut and saved, everything else refused, named and, when asked, set aside.

use super::*;

const SEGMENT_BYTES: u64 = 260;

/// Flips, cuts or swaps something in a copy of a journal, then checks what every kind of damage has in common: either
/// open succeeds, or it refuses and changes nothing and `recover` sets the damage aside. Afterwards all records but
/// `lost` are there, the journal takes new ones at offsets never used, and what was cut is under `quarantine/`.
fn damaged(
    directory: &Path,
    records: &BTreeMap<u64, Vec<u8>>,
    lost: &[u64],
) -> Result<RecoveryReport, Vec<Damage>> {
    let before = snapshot(directory);
    let end = records.last_key_value().map(|(offset, payload)| offset + 40 + payload.len() as u64).unwrap();
    let outcome = match open(directory, &small_segments(SEGMENT_BYTES)) {
        Ok((_, report)) => Ok(report),
        Err(JournalError::Corrupt { damages, .. }) => {
            assert_eq!(snapshot(directory), before, "a refused open changes nothing");
            let report = recover(directory, OnCorruption::SetAside).unwrap();
            assert!(!report.quarantined.is_empty());
            Err(damages)
        }
        Err(other) => panic!("{other}"),
    };
    let mut left = records.clone();
    left.retain(|offset, _| !lost.contains(offset));
    assert_eq!(read_all(directory), left);
    let journal = open_with(directory, small_segments(SEGMENT_BYTES)).unwrap();
    let offset = journal.append(b"after").unwrap();
    assert!(offset >= end || lost.contains(&offset), "offset {offset} was given out before");
    drop(journal);
    assert_eq!(read_all(directory).get(&offset).map(Vec::as_slice), Some(&b"after"[..]));
    assert_settled(directory);
    outcome
}

#[test]
fn a_torn_write_is_cut_at_every_byte_of_the_last_record() {
    let (original, records) = journal_of(7, SEGMENT_BYTES);
    let files = snapshot(original.path());
    let last_segment = segments(original.path()).pop().unwrap();
    let (last, last_payload) = records.last_key_value().unwrap();
    let file_len = files[&last_segment].len();
    let record_len = 40 + last_payload.len();
    for kept in 0..record_len {
        for with_mark in [false, true] {
            let copy = copy_of(&files, original.path());
            let path = copy.path().join(last_segment.file_name().unwrap());
            let cut = &files[&last_segment][..file_len - record_len + kept];
            std::fs::write(&path, cut).unwrap();
            if !with_mark {
                std::fs::remove_file(copy.path().join("SYNCED")).unwrap();
            }
            let outcome = damaged(copy.path(), &records, &[*last]);
            if kept == 0 && with_mark {
                let refused = outcome.unwrap_err();
                assert_eq!(refused[0].reason, DamageReason::LostEnd);
                assert_eq!(refused[0].offsets, *last..*last + record_len as u64);
                continue;
            }
            let report = outcome.unwrap();
            assert_eq!(report.recovery.truncated_bytes(), kept as u64);
            if kept > 0 {
                assert_eq!(report.recovery.truncated[0].offsets.unwrap()[0], *last);
                assert_eq!(report.recovery.truncated[0].file, path);
                let tail = &cut[cut.len() - kept..];
                // Zeros at the end are not saved.
                let nonzero = tail.iter().rposition(|byte| *byte != 0).unwrap() + 1;
                assert_eq!(quarantined(copy.path()), [tail[..nonzero].to_vec()]);
            }
            // Offsets that were once synced are never given out again.
            assert_eq!(report.end, if with_mark { last + record_len as u64 } else { *last });
        }
    }
}

#[test]
fn every_flipped_byte_is_found_and_costs_one_record_at_most() {
    let (original, records) = journal_of(9, SEGMENT_BYTES);
    let files = snapshot(original.path());
    let paths = segments(original.path());
    assert!(paths.len() >= 3);
    let (last, _) = records.last_key_value().unwrap();
    for path in &paths {
        let base = base_of(path);
        for at in 0..files[path].len() {
            let copy = copy_of(&files, original.path());
            let damaged_path = copy.path().join(path.file_name().unwrap());
            let mut bytes = files[path].clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&damaged_path, &bytes).unwrap();
            if at < 32 {
                let refused = damaged(copy.path(), &records, &[]).unwrap_err();
                assert_eq!((refused[0].position, refused[0].reason), (0, DamageReason::Header));
                assert_eq!(quarantined(copy.path()), [bytes[..32].to_vec()]);
                continue;
            }
            let offset = base + at as u64 - 32;
            let (hit, hit_payload) = records.range(..=offset).next_back().unwrap();
            let position = 32 + hit - base;
            let saved = bytes[position as usize..][..40 + hit_payload.len()].to_vec();
            match damaged(copy.path(), &records, &[*hit]) {
                Ok(report) => {
                    assert_eq!(hit, last, "only the last record can look torn");
                    assert_eq!(report.recovery.truncated[0].length, position);
                }
                Err(damages) => {
                    assert_ne!(hit, last);
                    assert_eq!(damages.len(), 1);
                    assert_eq!(damages[0].segment, damaged_path);
                    assert_eq!((damages[0].position, damages[0].offsets.start), (position, *hit));
                }
            }
            assert_eq!(quarantined(copy.path()), [saved]);
        }
    }
}

#[test]
fn a_lost_segment_is_named_wherever_it_was() {
    let (original, records) = journal_of(12, SEGMENT_BYTES);
    let files = snapshot(original.path());
    let paths = segments(original.path());
    for (index, path) in paths.iter().enumerate() {
        let copy = copy_of(&files, original.path());
        std::fs::remove_file(copy.path().join(path.file_name().unwrap())).unwrap();
        let start = base_of(path);
        let end = paths.get(index + 1).map_or(u64::MAX, base_of);
        let lost: Vec<u64> = records.range(start..end).map(|(offset, _)| *offset).collect();
        let refused = damaged(copy.path(), &records, &lost).unwrap_err();
        let expected = if index + 1 == paths.len() { DamageReason::LostEnd } else { DamageReason::Missing };
        assert_eq!(refused[0].reason, expected, "{refused:?}");
        assert_eq!(refused[0].offsets.start, start);
    }
}

#[test]
fn swapped_segments_are_refused_and_set_aside() {
    let (original, records) = journal_of(12, SEGMENT_BYTES);
    let files = snapshot(original.path());
    let paths = segments(original.path());
    for first in 0..paths.len() {
        for second in first + 1..paths.len() {
            let copy = copy_of(&files, original.path());
            for (path, content) in [(&paths[first], &paths[second]), (&paths[second], &paths[first])] {
                std::fs::write(copy.path().join(path.file_name().unwrap()), &files[content]).unwrap();
            }
            let lost: Vec<u64> = [first, second]
                .into_iter()
                .flat_map(|index| {
                    let end = paths.get(index + 1).map_or(u64::MAX, base_of);
                    records.range(base_of(&paths[index])..end).map(|(offset, _)| *offset).collect::<Vec<_>>()
                })
                .collect();
            let refused = damaged(copy.path(), &records, &lost).unwrap_err();
            assert!(matches!(refused[0].reason, DamageReason::Base(_)), "{refused:?}");
            let saved = quarantined(copy.path());
            assert!(saved.contains(&files[&paths[first]]) && saved.contains(&files[&paths[second]]));
        }
    }
}

#[test]
fn a_zero_filled_tail_is_a_torn_write() {
    let (original, records) = journal_of(7, SEGMENT_BYTES);
    let files = snapshot(original.path());
    let last = segments(original.path()).pop().unwrap();
    for zeros in [1, 39, 40, 41, 4096, 100_000] {
        let copy = copy_of(&files, original.path());
        let last = copy.path().join(last.file_name().unwrap());
        change(&last, |bytes| bytes.resize(bytes.len() + zeros, 0));
        let report = damaged(copy.path(), &records, &[]).unwrap();
        assert_eq!(report.recovery.truncated_bytes(), zeros as u64);
        assert_eq!(quarantined(copy.path()), [b""; 0], "zeros are no evidence");
    }
}

#[test]
fn of_a_torn_write_all_is_saved_but_the_zeros_at_its_end() {
    let (original, records) = journal_of(7, SEGMENT_BYTES);
    let last = segments(original.path()).pop().unwrap();
    change(&last, |bytes| bytes.extend([&b"torn\0write"[..], &[0; 5000]].concat()));
    let report = damaged(original.path(), &records, &[]).unwrap();
    assert_eq!(report.recovery.truncated_bytes(), 5010);
    assert_eq!(quarantined(original.path()), [b"torn\0write".to_vec()]);
}

/// Files that were restored from a copy may be older or newer than the mark.
#[test]
fn a_mark_inside_a_record_costs_no_record() {
    let (original, records) = journal_of(9, SEGMENT_BYTES);
    let end = reader_end(original.path());
    let files = snapshot(original.path());
    for mark in 1..end {
        let copy = copy_of(&files, original.path());
        std::fs::write(copy.path().join("SYNCED"), FileKind::SyncedMark.encode(mark)).unwrap();
        let from_mark = JournalOptions { check: OpenCheck::FromSyncedMark, ..small_segments(SEGMENT_BYTES) };
        let (journal, report) = open(copy.path(), &from_mark).unwrap();
        assert!(report.recovery.truncated.is_empty(), "{mark}");
        let after = journal.append(b"after").unwrap();
        journal.close().unwrap();
        let mut expected = records.clone();
        expected.insert(after, b"after".to_vec());
        assert_eq!(read_all(copy.path()), expected, "{mark}");
        assert_settled(copy.path());
    }
}

#[test]
fn a_segment_behind_a_symbolic_link_is_read_and_written_like_any_other() {
    let (original, mut records) = journal_of(9, SEGMENT_BYTES);
    let elsewhere = tempfile::tempdir().unwrap();
    for path in segments(original.path()) {
        let target = elsewhere.path().join(path.file_name().unwrap());
        std::fs::rename(&path, &target).unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
    }
    std::fs::remove_file(original.path().join("SYNCED")).unwrap();
    assert_eq!(read_all(original.path()), records);
    for _ in 0..3 {
        let journal = open_with(original.path(), small_segments(SEGMENT_BYTES)).unwrap();
        records.insert(journal.append(b"after").unwrap(), b"after".to_vec());
        let mut cursor = Cursor::open(original.path(), "c").unwrap();
        cursor.set(journal.end()).unwrap();
        journal.close().unwrap();
        assert_eq!(read_all(original.path()), records);
    }
}

#[test]
fn what_is_no_file_is_refused_and_not_waited_for() {
    let original = tempfile::tempdir().unwrap();
    let path = original.path().join("0000000000000000.wal");
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the name is a string that ends with a zero.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    for refused in [
        Journal::open(original.path()).map(drop).unwrap_err(),
        JournalReader::open(original.path()).map(drop).unwrap_err(),
        recover(original.path(), OnCorruption::SetAside).map(drop).unwrap_err(),
    ] {
        assert!(matches!(&refused, JournalError::NotAFile { path: named } if *named == path), "{refused}");
    }
}

#[test]
fn a_name_that_no_journal_reaches_is_no_segment() {
    let (original, mut records) = journal_of(9, SEGMENT_BYTES);
    for base in [u64::MAX, u64::MAX - 31, 1 << 63] {
        let stray = original.path().join(format!("{base:016x}.wal"));
        for content in [&b""[..], &FileKind::Segment.encode(base), &[7; 100]] {
            std::fs::write(&stray, content).unwrap();
            assert_eq!(read_all(original.path()), records);
            let journal = open_with(original.path(), small_segments(SEGMENT_BYTES)).unwrap();
            records.insert(journal.append(b"after").unwrap(), b"after".to_vec());
            journal.close().unwrap();
            assert_settled(original.path());
            assert_eq!(std::fs::read(&stray).unwrap(), content);
        }
        std::fs::remove_file(stray).unwrap();
    }
    for offset in [u64::MAX, u64::MAX - 31, 1 << 63] {
        let refused = JournalReader::open(original.path()).unwrap().read(offset).map(drop).unwrap_err();
        assert!(matches!(refused, JournalError::BeyondEnd { .. }), "{refused}");
    }
}

#[test]
fn a_journal_at_the_largest_offset_takes_nothing_more() {
    let (original, _) = journal_of(2, SEGMENT_BYTES);
    let base = MAX_OFFSET - 50;
    std::fs::write(original.path().join(format!("{base:016x}.wal")), FileKind::Segment.encode(base)).unwrap();
    recover(original.path(), OnCorruption::SetAside).unwrap();
    let journal = Journal::open(original.path()).unwrap();
    assert_eq!(journal.append(b"fits").unwrap(), base);
    let refused = journal.append(b"does not").unwrap_err();
    assert!(matches!(refused, JournalError::Full { .. }), "{refused}");
    journal.close().unwrap();
    assert_settled(original.path());
}

/// Each candidate has a fitting CRC, a wrong BLAKE3 and a length up to the end, so that comparing all hashes is quadratic.
fn hostile_candidates(len_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0xEE; len_bytes];
    let mut behind_crc = 0;
    let mut at = len_bytes / 40 * 40;
    bytes.truncate(at);
    while let Some(start) = at.checked_sub(40) {
        let payload_len = bytes.len() - at;
        bytes[start..start + 4].copy_from_slice(&(payload_len as u32).to_le_bytes());
        let covered = crc32c::crc32c_append(crc32c::crc32c(&bytes[start..start + 4]), &bytes[start + 8..at]);
        let crc = crc32c::crc32c_combine(covered, behind_crc, payload_len);
        bytes[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        behind_crc = crc32c::crc32c_combine(crc32c::crc32c(&bytes[start..at]), behind_crc, payload_len);
        at = start;
    }
    bytes
}

/// Valid records, and between each two of them bytes that claim to be a record up to the end.
fn hostile_lengths(len_bytes: usize) -> Vec<u8> {
    let record = EncodedRecord::new(b"").bytes().to_vec();
    let mut bytes = Vec::new();
    while bytes.len() + 80 < len_bytes {
        let claimed = (len_bytes - bytes.len() - 80) as u32;
        bytes.extend_from_slice(&claimed.to_le_bytes());
        bytes.extend_from_slice(&[0xEE; 36]);
        bytes.extend_from_slice(&record);
    }
    bytes
}

/// Minutes to hours, if each candidate were read whole.
#[test]
fn hostile_segments_cost_no_more_than_n_log_n() {
    let started = std::time::Instant::now();
    let shapes = [
        ([b"?".to_vec(), hostile_candidates(4 << 20)].concat(), 4 << 20),
        (hostile_lengths(4 << 20), 3 << 20),
    ];
    for (content, least_lost) in shapes {
        let directory = tempfile::tempdir().unwrap();
        let header = FileKind::Segment.encode(0);
        std::fs::write(directory.path().join("0000000000000000.wal"), [&header[..], &content].concat())
            .unwrap();
        let refused = JournalReader::open(directory.path()).unwrap().read(0).map(drop);
        assert!(refused.is_err(), "{refused:?}");
        let report = recover(directory.path(), OnCorruption::SetAside).unwrap();
        let lost: u64 = report.quarantined.iter().map(|saved| saved.len_bytes).sum();
        let lost = lost + report.recovery.truncated_bytes();
        assert!(lost + report.bytes == content.len() as u64 && lost + 1 >= least_lost / 2, "{lost}");
        assert!(quarantined(directory.path()).len() <= 2, "one copy of all damage, one of the torn end");
        assert_settled(directory.path());
    }
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

#[test]
fn a_valid_record_behind_a_torn_one_makes_it_corruption() {
    let (original, records) = journal_of(3, 1 << 20);
    let path = segments(original.path()).pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let record = bytes[32..32 + 40 + payload(0).len()].to_vec();
    let at = bytes.len();
    bytes.extend_from_slice(&[0xEE; 77]);
    bytes.extend_from_slice(&record);
    std::fs::write(&path, &bytes).unwrap();
    let refused = Journal::open(original.path()).unwrap_err();
    let message = refused.to_string();
    let JournalError::Corrupt { damages, .. } = refused else { panic!("{message}") };
    assert_eq!(damages.len(), 1);
    assert_eq!(damages[0].position, at as u64);
    assert_eq!(damages[0].offsets.end - damages[0].offsets.start, 77);
    assert!(
        message.contains("0000000000000000.wal at byte") && message.contains("--skip-corrupt"),
        "{message}"
    );
    recover(original.path(), OnCorruption::SetAside).unwrap();
    let read = read_all(original.path());
    assert_eq!(read.len(), records.len() + 1);
    assert_eq!(quarantined(original.path()), [vec![0xEE; 77]]);
    assert_settled(original.path());
}

#[test]
fn bytes_that_overlap_the_next_segment_are_cut_off_only_on_request() {
    let (original, records) = journal_of(9, SEGMENT_BYTES);
    let first = segments(original.path()).remove(0);
    change(&first, |bytes| bytes.extend_from_slice(b"surplus"));
    let refused = damaged(original.path(), &records, &[]).unwrap_err();
    assert_eq!(refused[0].reason, DamageReason::Overlap);
    assert_eq!(quarantined(original.path()), [b"surplus".to_vec()]);
}

#[test]
fn a_sealed_segment_cut_short_is_corruption() {
    let (original, records) = journal_of(9, SEGMENT_BYTES);
    let files = snapshot(original.path());
    let first = segments(original.path()).remove(0);
    for len in 0..files[&first].len() {
        let copy = copy_of(&files, original.path());
        std::fs::write(copy.path().join(first.file_name().unwrap()), &files[&first][..len]).unwrap();
        let lost: Vec<u64> = records
            .iter()
            .filter(|(offset, payload)| {
                let end = 32 + **offset as usize + 40 + payload.len();
                end > len && end <= files[&first].len()
            })
            .map(|(offset, _)| *offset)
            .collect();
        damaged(copy.path(), &records, &lost).unwrap_err();
    }
}

#[test]
fn a_last_segment_without_a_whole_header_was_never_finished() {
    let (original, records) = journal_of(6, 1 << 20);
    let end = reader_end(original.path());
    let files = snapshot(original.path());
    for len in 0..32 {
        let copy = copy_of(&files, original.path());
        let header = &FileKind::Segment.encode(end)[..len];
        let path = copy.path().join(format!("{end:016x}.wal"));
        std::fs::write(&path, header).unwrap();
        assert_eq!(read_all(copy.path()), records, "a reader is not disturbed by it");
        let report = damaged(copy.path(), &records, &[]).unwrap();
        assert_eq!(report.recovery.truncated[0].file, path);
        let expected: Vec<Vec<u8>> = if len == 0 { vec![] } else { vec![header.to_vec()] };
        assert_eq!(quarantined(copy.path()), expected);
    }
}

#[test]
fn checking_from_the_mark_sees_what_is_behind_it_and_only_that() {
    let (original, _) = journal_of(9, 1 << 20);
    let mark = status(original.path()).unwrap().synced.unwrap();
    let journal = Journal::open(original.path()).unwrap();
    assert_eq!(journal.append(b"behind the mark").unwrap(), mark);
    journal.append(b"and one more").unwrap();
    // As killed: no clean close.
    std::mem::forget(journal);
    let files = snapshot(original.path());
    let path = segment_paths(original.path()).pop().unwrap();
    let from_mark = JournalOptions { check: OpenCheck::FromSyncedMark, ..JournalOptions::default() };
    let open_with_flip = |at: usize, options: &JournalOptions| {
        let copy = copy_of(&files, original.path());
        change(&copy.path().join(path.file_name().unwrap()), |bytes| bytes[at] ^= 4);
        open(copy.path(), options).map(|(_, report)| report)
    };
    let before = open_with_flip(32 + 50, &from_mark).unwrap();
    assert_eq!((before.checked_from, before.records), (mark, 2));
    assert!(open_with_flip(32 + 50, &JournalOptions::default()).is_err());
    assert!(open_with_flip(32 + mark as usize + 41, &from_mark).is_err());
    assert!(open_with_flip(3, &from_mark).is_err(), "the header of the segment with the mark is checked");
}

#[test]
fn a_mark_that_does_not_fit_only_costs_the_longer_check() {
    let (original, records) = journal_of(9, SEGMENT_BYTES);
    let from_mark = JournalOptions { check: OpenCheck::FromSyncedMark, ..JournalOptions::default() };
    std::fs::write(original.path().join("SYNCED"), b"torn").unwrap();
    let (_, report) = open(original.path(), &from_mark).unwrap();
    assert_eq!((report.checked_from, report.records), (0, records.len() as u64));
}

#[test]
fn an_unknown_version_is_refused_and_left_alone() {
    let (original, _) = journal_of(2, 1 << 20);
    let path = segments(original.path()).remove(0);
    change(&path, |bytes| {
        bytes[8] = 9;
        let crc = crc32c::crc32c(&bytes[..24]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    });
    let before = snapshot(original.path());
    for outcome in
        [Journal::open(original.path()).map(drop), recover(original.path(), OnCorruption::SetAside).map(drop)]
    {
        assert!(matches!(outcome, Err(JournalError::Unsupported { version: 9, .. })), "{outcome:?}");
    }
    assert_eq!(snapshot(original.path()), before);
}

#[test]
fn damaged_skips_are_set_aside_and_found_again() {
    let (original, records) = journal_of(9, SEGMENT_BYTES);
    let first = segments(original.path()).remove(0);
    change(&first, |bytes| bytes[32 + 45] ^= 1);
    damaged(original.path(), &records, &[0]).unwrap_err();
    let skips = original.path().join("SKIPS");
    change(&skips, |bytes| bytes[30] ^= 1);
    let refused = Journal::open(original.path()).unwrap_err();
    assert!(matches!(refused, JournalError::Damaged { .. }), "{refused}");
    recover(original.path(), OnCorruption::SetAside).unwrap();
    assert_eq!(read_all(original.path()).len(), records.len());
    assert_settled(original.path());
}

#[test]
fn a_reader_names_damage_instead_of_stepping_over_it() {
    let (original, records) = journal_of(9, SEGMENT_BYTES);
    for path in segments(original.path()) {
        change(&path, |bytes| bytes[32 + 45] ^= 1);
        let base = base_of(&path);
        let refused = JournalReader::open(original.path()).unwrap().read(base).map(drop).unwrap_err();
        let JournalError::Corrupt { damages, .. } = &refused else { panic!("{refused}") };
        assert_eq!((&damages[0].segment, damages[0].position), (&path, 32));
        assert!(records.contains_key(&base));
    }
}

#[test]
fn an_offset_inside_a_record_behind_a_skipped_range_is_told_where_the_record_starts() {
    let (original, records) = journal_of(3, 1 << 20);
    let path = segments(original.path()).remove(0);
    change(&path, |bytes| bytes[32 + 45] ^= 1);
    recover(original.path(), OnCorruption::SetAside).unwrap();
    let second = *records.keys().nth(1).unwrap();
    let refused = JournalReader::open(original.path()).unwrap().read(second + 1).map(drop).unwrap_err();
    assert!(matches!(refused, JournalError::NotARecord { start, .. } if start == second), "{refused}");
}

#[test]
fn one_file_is_recovered_by_itself() {
    let (original, _) = journal_of(20, SEGMENT_BYTES);
    let paths = segments(original.path());
    let (sealed, last) = (&paths[1], &paths[paths.len() - 1]);
    let report = recover_file(sealed).unwrap();
    assert!(report.records > 0 && report.recovery.is_empty(), "{report:?}");
    // A torn end of the last segment is saved and cut.
    let whole = std::fs::read(last).unwrap();
    std::fs::write(last, [&whole[..], b"torn"].concat()).unwrap();
    let report = recover_file(last).unwrap();
    assert_eq!(report.recovery.truncated_bytes(), 4);
    assert_eq!(std::fs::read(last).unwrap(), whole);
    assert_eq!(quarantined(original.path()), [b"torn"]);
    assert!(recover_file(last).unwrap().recovery.is_empty());
    // Damage of a sealed segment is refused by its name, and not seen in another file.
    change(sealed, |bytes| bytes[40] ^= 1);
    let Err(JournalError::Corrupt { damages, .. }) = recover_file(sealed) else { panic!("not refused") };
    assert_eq!(damages[0].segment, *sealed);
    assert!(recover_file(&paths[0]).is_ok() && recover_file(last).is_ok());
    let refused = recover_file(&original.path().join("LOCK")).unwrap_err();
    assert!(matches!(refused, JournalError::NotASegment { .. }), "{refused}");
}

#[test]
fn bytes_that_cannot_be_saved_are_not_cut() {
    let (original, _) = journal_of(3, SEGMENT_BYTES);
    let last = segments(original.path()).pop().unwrap();
    let torn = [&std::fs::read(&last).unwrap()[..], b"torn"].concat();
    std::fs::write(&last, &torn).unwrap();
    std::fs::write(original.path().join("quarantine"), b"a file where the directory should be").unwrap();
    let refused = Journal::open(original.path()).unwrap_err();
    let JournalError::Quarantine(QuarantineError { file, range, .. }) = &refused else { panic!("{refused}") };
    assert_eq!((file, range.clone()), (&last, torn.len() as u64 - 4..torn.len() as u64));
    assert!(refused.to_string().contains("the file was not changed"), "{refused}");
    assert_eq!(std::fs::read(&last).unwrap(), torn);
}

#[test]
fn a_check_finds_damage_and_torn_ends_and_changes_nothing() {
    let (original, _) = journal_of(9, SEGMENT_BYTES);
    let sound = check(original.path()).unwrap();
    assert!(sound.ok && sound.findings.is_empty(), "{sound:?}");
    assert_eq!(sound.status.end, status(original.path()).unwrap().end);
    let paths = segments(original.path());
    let (first, last) = (&paths[0], &paths[paths.len() - 1]);
    // The CRC of the first record, which lies after the header and the record's length.
    change(first, |bytes| bytes[32 + 4] ^= 1);
    let whole = std::fs::read(last).unwrap();
    std::fs::write(last, [&whole[..], b"torn"].concat()).unwrap();
    let before = snapshot(original.path());
    let found = check(original.path()).unwrap();
    assert!(!found.ok);
    let places: Vec<_> =
        found.findings.iter().map(|finding| (&finding.file, finding.offset, finding.problem.kind)).collect();
    let expected =
        [(first, Some(32), DamageReason::Checksum), (last, Some(whole.len() as u64), DamageReason::Partial)];
    assert_eq!(places, expected);
    assert_eq!(snapshot(original.path()), before);
    let lock = crate::store::lock(&original.path().join("LOCK"), std::time::Duration::ZERO).unwrap().unwrap();
    assert!(matches!(check(original.path()), Err(JournalError::Locked { .. })));
    drop(lock);
}
