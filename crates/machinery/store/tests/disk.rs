//! A store on real file systems: rights, the lock, backups, and a disk that is really full.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use podium_store::{
    Change, CommitError, Config, Expect, Key, KeyRange, OpenError, RangeOptions, SnapshotError, Store, Value,
};

async fn put(store: &Store, key: &str, value: Vec<u8>) -> Result<u64, CommitError> {
    let change = Change::put(Value::from(value));
    Ok(store.commit(Key::from(key), Expect::Any, change).await?.revision)
}

#[tokio::test]
async fn only_the_owner_can_read_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("deep/store");
    fs::create_dir_all(&dir).expect("made");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("set");
    let store = Store::open(Config::new(&dir)).await.expect("the store opens");
    put(&store, "a", vec![1]).await.expect("put");
    let backup = dir.with_file_name("backup");
    store.snapshot(&backup).await.expect("a snapshot");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&backup), 0o600);
    let mut files = 0;
    for entry in fs::read_dir(&dir).expect("read") {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files += 1;
    }
    assert_eq!(files, 3, "a snapshot, a segment, the lock");
}

#[tokio::test]
async fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(Config::new(dir.path())).await.expect("the store opens");
    let second = Store::open(Config::new(dir.path())).await;
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    store.close().await;
    Store::open(Config::new(dir.path())).await.expect("it opens once the first is closed");
}

#[tokio::test]
async fn dropping_the_last_clone_closes_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(Config::new(dir.path())).await.expect("the store opens");
    let clone = store.clone();
    put(&store, "a", vec![1]).await.expect("put");
    drop(store);
    put(&clone, "b", vec![1]).await.expect("put");
    drop(clone);
    let store = Store::open(Config::new(dir.path())).await.expect("it opens again");
    assert_eq!((store.revision(), store.count(&KeyRange::all())), (3, 2));
}

#[tokio::test]
async fn a_snapshot_is_taken_while_it_runs_and_restored() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let store = Store::open(Config::new(path("store"))).await.expect("the store opens");
    let lease = store.grant_lease(Duration::from_secs(100)).await.expect("granted");
    for number in 0..300 {
        let change =
            Change::Put { value: vec![b'v'; 2000].into(), lease: (number % 2 == 0).then_some(lease) };
        store.commit(Key::from(format!("k{:03}", number % 100)), Expect::Any, change).await.expect("put");
    }
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for number in 0..100 {
                put(&store, &format!("later{number}"), vec![b'w'; 2000]).await.expect("put");
            }
        }
    });
    let revision = store.snapshot(&path("backup")).await.expect("a snapshot");
    writer.await.expect("it wrote");
    assert!((301..=401).contains(&revision));
    assert!(matches!(store.snapshot(&path("backup")).await, Err(SnapshotError::Exists { .. })));
    let options = RangeOptions { revision: Some(revision), limit: 0 };
    let expected = store.range(&KeyRange::all(), options).expect("kept").records;

    assert_eq!(Store::restore(&path("backup"), &path("restored")).expect("restored"), revision);
    assert!(matches!(Store::restore(&path("backup"), &path("restored")), Err(SnapshotError::Exists { .. })));
    let restored = Store::open(Config::new(path("restored"))).await.expect("it opens");
    assert_eq!((restored.revision(), restored.compacted_revision()), (revision, revision));
    let found = restored.range(&KeyRange::all(), RangeOptions::default()).expect("read").records;
    assert_eq!(found, expected);
    assert_eq!(restored.keep_alive(lease).await.expect("kept"), Duration::from_secs(100));
    assert_eq!(put(&restored, "next", vec![1]).await.expect("put"), revision + 1);

    let mut damaged = fs::read(path("backup")).expect("read");
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(path("damaged"), damaged).expect("written");
    let refused = Store::restore(&path("damaged"), &path("other"));
    assert!(matches!(refused, Err(SnapshotError::Corrupt { .. })), "{refused:?}");
}

/// A small file system of its own; unmounted when this goes.
struct Small(PathBuf);

impl Small {
    /// `None`, saying why, where it cannot be mounted.
    fn mount(path: PathBuf, bytes: u32) -> Option<Small> {
        fs::create_dir(&path).expect("made");
        let options = format!("size={bytes}");
        match mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())) {
            Ok(()) => Some(Small(path)),
            Err(error) => {
                println!("skipped: a tmpfs cannot be mounted here: {error}");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            println!("{} stays mounted: {error}", self.0.display());
        }
    }
}

#[tokio::test]
async fn a_really_full_disk_refuses_writes_and_recovers() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(small) = Small::mount(dir.path().join("small"), 1 << 20) else { return };
    let store = Store::open(Config::new(small.0.join("store"))).await.expect("the store opens");
    let filler = small.0.join("filler");
    fs::write(&filler, vec![0; 400_000]).expect("room for it");
    let mut written = 0;
    let refused = loop {
        match put(&store, &format!("k{written}"), vec![b'v'; 10_000]).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 200, "the disk is never full");
    };
    assert!(matches!(refused, CommitError::NoSpace(_)), "{refused:?}");
    assert!(written > 20, "only {written} writes fit");
    assert_eq!((store.count(&KeyRange::all()), store.revision()), (written, written + 1), "reads go on");
    assert!(matches!(put(&store, "more", vec![b'v'; 10_000]).await, Err(CommitError::NoSpace(_))));
    fs::remove_file(&filler).expect("removed");
    assert_eq!(put(&store, "more", vec![b'v'; 10_000]).await.expect("room again"), written + 2);
    store.close().await;
    let store = Store::open(Config::new(small.0.join("store"))).await.expect("it opens");
    assert_eq!((store.count(&KeyRange::all()), store.revision()), (written + 1, written + 2));
    store.close().await;
}
