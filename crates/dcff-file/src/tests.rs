//! What is written is there whole, on the disk, and leaves nothing behind.

use std::cell::RefCell;

use super::*;

thread_local! {
    /// What was put on the disk in turn, and whether the target `a` had its name then.
    pub(super) static SYNCED: RefCell<Vec<(PathBuf, bool)>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn no_more_is_read_than_may_be() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a");
    write(&path, b"1234").unwrap();
    assert_eq!(read(&path, 4).unwrap(), b"1234");
    let large = read(&path, 3).unwrap_err().to_string();
    assert!(
        large.ends_with("a: expected at most 3 bytes, got 4"),
        "{large}"
    );
    let mut parts = Vec::new();
    assert!(read_parts_if_any(&path, 4, |part| parts.extend(part.to_owned())).unwrap());
    assert_eq!(parts, b"1234");
    assert!(read_parts_if_any(&path, 3, |_| {}).is_err());
    assert!(!read_parts_if_any(&root.path().join("b"), 3, |_| {}).unwrap());
    assert_eq!(read_if_any(&root.path().join("b"), 3).unwrap(), None);
    assert_eq!(read_text(&path, 4).unwrap(), "1234");
    let binary = root.path().join("c");
    write(&binary, b"12\xff").unwrap();
    let error = read_text(&binary, 4).unwrap_err().to_string();
    assert!(
        error.ends_with("c: expected UTF-8, got other bytes at 2"),
        "{error}"
    );
    let folder = read(root.path(), 4).unwrap_err().to_string();
    assert!(folder.ends_with(": expected a file"), "{folder}");
    assert!(matches!(
        read(&root.path().join("b"), 4),
        Err(Error::Io { .. })
    ));
}

#[test]
fn a_folder_that_cannot_be_put_there_leaves_the_old_one() {
    let root = tempfile::tempdir().unwrap();
    let (target, new) = (root.path().join("out"), root.path().join("new"));
    std::fs::create_dir(&target).unwrap();
    write(&target.join("a"), b"1").unwrap();
    // `new` is missing, so that the second of the two renames fails.
    assert!(replace(&new, &target).is_err());
    assert_eq!(std::fs::read(target.join("a")).unwrap(), b"1");
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    std::fs::create_dir(&new).unwrap();
    write(&new.join("b"), b"2").unwrap();
    replace(&new, &target).unwrap();
    assert!(target.join("b").exists() && !target.join("a").exists());
}

#[cfg(any(target_os = "linux", target_os = "macos"))]
#[test]
fn two_folders_change_places_at_once() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    for folder in [&a, &b] {
        std::fs::create_dir(folder).unwrap();
    }
    write(&a.join("of a"), b"").unwrap();
    exchange(&a, &b).unwrap();
    assert!(b.join("of a").exists() && a.exists());
}

#[test]
fn what_was_left_half_written_is_swept_away() {
    let root = tempfile::tempdir().unwrap();
    let left = root.path().join(format!("{TEMPORARY}abc"));
    std::fs::create_dir_all(left.join("deep")).unwrap();
    write(&root.path().join("a"), b"1").unwrap();
    sweep(root.path()).unwrap();
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn a_failed_fill_leaves_the_old_folder() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("out");
    write_folder::<Error>(&target, |dir| write(&dir.join("a"), b"1")).unwrap();
    let failed = write_folder(&target, |dir| {
        write(&dir.join("a"), b"2")?;
        Err(Error::content(dir, "stop"))
    });
    assert!(failed.is_err());
    assert_eq!(std::fs::read(target.join("a")).unwrap(), b"1");
    write_folder::<Error>(&target, |dir| write(&dir.join("b"), b"3")).unwrap();
    assert!(!target.join("a").exists());
    // Nothing but the target is left behind.
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn the_folder_is_put_on_the_disk_after_the_name() {
    let root = tempfile::tempdir().unwrap();
    let a = root.path().join("a");
    let synced = || SYNCED.take();
    for writer in [create, write] {
        let _ = std::fs::remove_file(&a);
        writer(&a, b"1").unwrap();
        assert_eq!(
            synced(),
            [(a.clone(), false), (root.path().to_owned(), true)]
        );
    }
    std::fs::remove_file(&a).unwrap();
    for there in [false, true] {
        write_folder::<Error>(&a, |_| Ok(())).unwrap();
        let [(filled, named), (above, named_then)] = synced().try_into().unwrap();
        assert!(is_temporary(filled.file_name().unwrap()));
        assert_eq!(
            (named, above, named_then),
            (false, root.path().to_owned(), true),
            "there before: {there}"
        );
    }
}

#[test]
fn what_a_killed_program_left_of_a_target_goes_with_the_next_write() {
    let root = tempfile::tempdir().unwrap();
    let names = || {
        let mut names: Vec<String> = std::fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let target = root.path().join("a");
    // Of this target, of another one, and somebody else's.
    for name in [".writing-a-123456", ".writing-b-123456", ".tmp123456"] {
        std::fs::write(root.path().join(name), b"half").unwrap();
    }
    std::fs::create_dir(root.path().join(".writing-a-abcdef")).unwrap();
    write(&target, b"1").unwrap();
    assert_eq!(names(), [".tmp123456", ".writing-b-123456", "a"]);
    // What is still being written stays.
    let busy = File::create(root.path().join(".writing-a-654321")).unwrap();
    busy.try_lock().unwrap();
    write(&target, b"2").unwrap();
    assert!(root.path().join(".writing-a-654321").exists());
    drop(busy);
    write_folder::<Error>(&root.path().join("b"), |_| Ok(())).unwrap();
    write(&target, b"3").unwrap();
    assert_eq!(names(), [".tmp123456", "a", "b"]);
}

#[test]
fn one_of_two_programs_creates_a_file_and_takes_a_lock() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("a");
    create(&file, b"1").unwrap();
    let Err(Error::Io { reason, .. }) = create(&file, b"2") else {
        panic!("created twice");
    };
    assert_eq!(reason.kind(), ErrorKind::AlreadyExists);
    assert_eq!(read(&file, 9).unwrap(), b"1");

    let lock = FolderLock::take(root.path()).unwrap();
    assert!(lock.is_some());
    assert!(FolderLock::take(root.path()).unwrap().is_none());
    drop(lock);
    assert!(FolderLock::take(root.path()).unwrap().is_some());
}

#[test]
fn a_folder_of_temporary_names_is_vacant() {
    let root = tempfile::tempdir().unwrap();
    assert!(is_vacant(&root.path().join("none")).unwrap());
    for name in [LOCK, ".tmp123456", ".writing-123456", ".writing-a-123456"] {
        std::fs::write(root.path().join(name), b"half").unwrap();
    }
    assert!(is_vacant(root.path()).unwrap());
    std::fs::write(root.path().join(".tmp"), b"").unwrap();
    assert!(!is_vacant(root.path()).unwrap());
    assert!(is_vacant(&root.path().join(".tmp")).is_err());
}
