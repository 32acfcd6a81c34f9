//! What `disk` promises, operation by operation, and canaries that prove the fault harness sees what it must.

#![allow(clippy::unwrap_used)]

use super::faults::{Harness, Survival, each_failure};
use super::*;
use std::collections::BTreeSet;

fn names(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn append_creates_once_and_then_writes_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (first, created) = File::open_append(&path).unwrap();
    assert!(created);
    let (second, created) = File::open_append(&path).unwrap();
    assert!(!created);
    first.write_all(b"one ").unwrap();
    second.write_all(b"two ").unwrap();
    first.write_all(b"three").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one two three");
    assert_eq!(metadata(&path).unwrap().identity, second.metadata().unwrap().identity);
}

#[test]
fn files_and_directories_are_private() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("a/b/c");
    create_dir_all(&deep).unwrap();
    create_dir_all(&deep).unwrap();
    assert_eq!(metadata(&deep).unwrap().mode, 0o700);
    assert_eq!(metadata(deep.parent().unwrap()).unwrap().mode, 0o700);
    File::create_new(&deep.join("f")).unwrap();
    assert_eq!(metadata(&deep.join("f")).unwrap().mode, 0o600);
}

#[test]
fn root_gives_what_it_creates_to_the_owner_of_the_directory_or_of_the_file_replaced() {
    use std::os::unix::fs::{MetadataExt, chown};
    let directory = tempfile::tempdir().unwrap();
    if fs::metadata(directory.path()).unwrap().uid() != 0 {
        eprintln!("skipped: only root can give files away");
        return;
    }
    chown(directory.path(), Some(4711), Some(4712)).unwrap();
    let owner = |name: &str| {
        let found = fs::metadata(directory.path().join(name)).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o777)
    };
    let path = |name: &str| directory.path().join(name);
    File::create_new(&path("created")).unwrap();
    File::open_append(&path("appended")).unwrap();
    KernelLock::open(&path("LOCK")).unwrap();
    replace(&path("replaced"), b"anew", Replacing::Unsynced).unwrap();
    for name in ["created", "appended", "LOCK", "replaced"] {
        assert_eq!(owner(name), (4711, 4712, 0o600), "{name}");
    }
    create_dir_all(&path("a/b")).unwrap();
    assert_eq!((owner("a"), owner("a/b")), ((4711, 4712, 0o700), (4711, 4712, 0o700)));
    // A file that is replaced keeps its owner, whoever has the directory.
    chown(path("replaced"), Some(815), Some(816)).unwrap();
    fs::set_permissions(path("replaced"), fs::Permissions::from_mode(0o640)).unwrap();
    replace(&path("replaced"), b"again", Replacing::Durable).unwrap();
    assert_eq!(owner("replaced"), (815, 816, 0o640));
}

#[test]
fn exclusive_creation_does_not_go_through_a_symbolic_link() {
    let directory = tempfile::tempdir().unwrap();
    let (link, target) = (directory.path().join("link"), directory.path().join("target"));
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert_eq!(File::create_new(&link).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(File::open_append(&link).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert!(!target.exists());
    fs::write(&target, b"").unwrap();
    let refused = File::open_read_no_follow(&link).unwrap_err().to_string();
    assert!(refused.contains("symbolic links are not followed"), "{refused}");
}

#[test]
fn errors_name_operation_path_and_remedy() {
    let full = Error::Io {
        operation: Operation::Write { offset: None, len_bytes: 312 },
        path: PathBuf::from("/h/ledger.jsonl"),
        source: io::Error::from_raw_os_error(libc::ENOSPC),
    };
    assert_eq!(
        full.to_string(),
        "cannot append 312 bytes to /h/ledger.jsonl: No space left on device (os error 28); free space on that file \
         system, then try again"
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("short");
    fs::write(&path, b"12345").unwrap();
    let short = File::open_read(&path).unwrap().read_exact_at(&mut [0; 4], 3).unwrap_err();
    assert!(matches!(&short, Error::UnexpectedEnd { range, len_bytes: 5, .. } if *range == (3..7)));
    assert!(File::open_read(&directory.path().join("none")).unwrap_err().is_not_found());
}

#[test]
fn replace_keeps_the_mode_and_leaves_no_temporary_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    replace(&path, b"old", Replacing::Unsynced).unwrap();
    assert_eq!(metadata(&path).unwrap().mode, 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    replace(&path, b"new", Replacing::Durable).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(metadata(&path).unwrap().mode, 0o640);
    let refused = replace_with(&path, Replacing::Durable, |file| {
        file.write_all(b"half")?;
        file.read_exact_at(&mut [0; 9], 0)
    });
    assert!(refused.is_err());
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(names(directory.path()), BTreeSet::from(["config".to_owned()]));
}

#[test]
fn replace_fails_whole_at_every_operation() {
    each_failure(|harness| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        fs::write(&path, b"old").unwrap();
        let outcome = harness.run(|| replace(&path, b"brand new", Replacing::Durable));
        let content = fs::read(&path).unwrap();
        match outcome {
            Ok(()) => assert_eq!(content, b"brand new"),
            Err(error) => {
                assert!(error.path().starts_with(directory.path()), "{error}");
                assert!(content == b"old" || content == b"brand new");
                assert_eq!(names(directory.path()), BTreeSet::from(["state".to_owned()]), "{harness:?}");
            }
        }
    });
}

#[test]
fn quarantine_never_overwrites_and_saves_every_byte() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let content: Vec<u8> = (0..(3 << 20) + 17).map(|i| (i % 251) as u8).collect();
    fs::write(&path, &content).unwrap();
    let file = File::open_rw(&path).unwrap();
    let saved = directory.path().join("quarantine");
    let first = quarantine(&file, 5..content.len() as u64, &saved, "log.cut").unwrap();
    let second = quarantine(&file, 0..5, &saved, "log.cut").unwrap();
    assert_eq!(fs::read(first).unwrap(), &content[5..]);
    assert_eq!(fs::read(&second).unwrap(), &content[..5]);
    assert_eq!(second, saved.join("log.cut.1"));
}

#[test]
fn quarantine_failing_at_any_operation_leaves_no_half_copy() {
    each_failure(|harness| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, b"0123456789").unwrap();
        let file = File::open_rw(&path).unwrap();
        let saved = directory.path().join("q");
        let outcome = harness.run(|| quarantine(&file, 4..10, &saved, "tail"));
        if outcome.is_ok() {
            assert_eq!(fs::read(saved.join("tail")).unwrap(), b"456789");
        } else if let Ok(copy) = fs::read(saved.join("tail")) {
            assert_eq!(copy, b"456789", "{harness:?}");
        }
    });
}

/// A killed program may have created the directory and not synced its name.
#[test]
fn quarantine_is_durable_in_a_directory_whose_name_nobody_synced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    fs::write(&path, b"0123456789").unwrap();
    let saved = directory.path().join("q");
    let harness = Harness::recording(directory.path());
    harness.run(|| {
        perform_on_path(Operation::CreateDirectory, &saved, || fs::create_dir(&saved)).unwrap();
        quarantine(&File::open_rw(&path).unwrap(), 4..10, &saved, "tail").unwrap();
    });
    let image = tempfile::tempdir().unwrap();
    harness.lay_out(harness.events(), Survival::Nothing, image.path());
    assert_eq!(fs::read(image.path().join("q/tail")).unwrap(), b"456789");
}

/// Appends sized to straddle sectors, each acknowledged at the event count it was reported at.
fn acknowledged_appends(directory: &Path, harness: &Harness, sync: bool) -> Vec<usize> {
    let path = directory.join("log");
    harness.run(|| {
        let (file, _) = File::open_append(&path).unwrap();
        sync_dir(directory).unwrap();
        let append = |number: u8| {
            file.write_all(&[number; 700]).unwrap();
            if sync {
                file.sync_data().unwrap();
            }
            harness.events()
        };
        (1..=4).map(append).collect()
    })
}

fn lost_acknowledgements(harness: &Harness, acknowledged: &[usize]) -> usize {
    let mut lost = 0;
    harness.each_image(|image| {
        let content = fs::read(image.path().join("log")).unwrap_or_default();
        for (number, _) in acknowledged.iter().enumerate().filter(|(_, at)| **at <= image.after_events()) {
            let kept = content.get(number * 700..(number + 1) * 700);
            lost += usize::from(kept != Some(&[number as u8 + 1; 700]));
        }
    });
    lost
}

#[test]
fn synced_appends_survive_every_power_cut() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::recording(directory.path());
    let acknowledged = acknowledged_appends(directory.path(), &harness, true);
    assert_eq!(lost_acknowledgements(&harness, &acknowledged), 0);
}

/// The canary: the same harness must notice when the sync is left out.
#[test]
fn a_missing_sync_is_caught() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::recording(directory.path());
    let acknowledged = acknowledged_appends(directory.path(), &harness, false);
    assert!(lost_acknowledgements(&harness, &acknowledged) > 0);
}

fn torn_replacements(replacing: Replacing) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    fs::write(&path, [b'a'; 1500]).unwrap();
    let harness = Harness::recording(directory.path());
    harness.run(|| replace(&path, &[b'b'; 1500], replacing)).unwrap();
    let mut torn = 0;
    harness.each_image(|image| {
        let content = fs::read(image.path().join("state")).unwrap();
        let must_be_new = image.after_events() == harness.events();
        let is_whole = content == [b'b'; 1500] || (content == [b'a'; 1500] && !must_be_new);
        torn += usize::from(!is_whole);
    });
    torn
}

#[test]
fn a_durable_replacement_is_old_or_new_after_every_power_cut() {
    assert_eq!(torn_replacements(Replacing::Durable), 0);
}

/// The canary: renaming before the content is synced leaves an empty or torn file in some image.
#[test]
fn a_replacement_without_sync_is_caught() {
    assert!(torn_replacements(Replacing::Unsynced) > 0);
}

#[test]
fn an_image_of_everything_equals_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("old")).unwrap();
    fs::write(directory.path().join("old/kept"), b"kept").unwrap();
    let harness = Harness::recording(directory.path());
    harness.run(|| {
        create_dir_all(&directory.path().join("new/deep")).unwrap();
        let path = directory.path().join("new/deep/file");
        let file = File::create_new(&path).unwrap();
        file.write_all(b"0123456789").unwrap();
        file.write_all_at(b"AB", 3).unwrap();
        rename(&path, &directory.path().join("old/moved")).unwrap();
        file.set_len(6).unwrap();
        file.write_all_at(b"!", 8).unwrap();
        rename(&directory.path().join("old"), &directory.path().join("renamed")).unwrap();
        let gone = directory.path().join("gone");
        File::create_new(&gone).unwrap();
        remove_file(&gone).unwrap();
        assert!(!remove_file_if_exists(&gone).unwrap());
    });
    let image = tempfile::tempdir().unwrap();
    harness.lay_out(harness.events(), Survival::Everything, image.path());
    assert_eq!(names(image.path()), names(directory.path()));
    assert_eq!(names(&image.path().join("renamed")), names(&directory.path().join("renamed")));
    assert_eq!(names(&image.path().join("new/deep")), BTreeSet::new());
    assert_eq!(fs::read(image.path().join("renamed/moved")).unwrap(), b"012AB5\0\0!");
    let nothing = tempfile::tempdir().unwrap();
    harness.lay_out(harness.events(), Survival::Nothing, nothing.path());
    assert_eq!(names(nothing.path()), BTreeSet::from(["new".to_owned(), "old".to_owned()]));
}

#[test]
fn a_harness_reaches_only_the_threads_that_enter_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    let harness = Harness::failing(faults::Fault::Io, 0);
    harness.run(|| {
        let handed_on = faults::current();
        std::thread::scope(|scope| {
            let outside = scope.spawn(|| File::create_new(&path).is_ok());
            assert!(outside.join().unwrap());
            let inside = scope.spawn(|| handed_on.unwrap().run(|| File::open_read(&path).is_ok()));
            assert!(!inside.join().unwrap());
        });
    });
    assert!(File::open_read(&path).is_ok());
}
