//! Layers, ordinary and hostile.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use super::*;

/// A tar entry: name, kind, link target or content, mode.
type Item<'a> = (&'a str, EntryType, &'a [u8], u32);

fn tar(items: &[Item<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, content, mode) in items {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_mtime(1_000_000_000);
        let link = matches!(kind, EntryType::Symlink | EntryType::Link);
        // By hand: the library itself refuses the names that are tested.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if link {
            header.as_mut_bytes()[157..157 + content.len()].copy_from_slice(content);
            header.set_size(0);
        } else {
            header.set_size(content.len() as u64);
        }
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
            header.set_size(0);
        }
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        if !link && header.size().unwrap() > 0 {
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn run(target: &Path, lower: &[PathBuf], items: &[Item<'_>]) -> Result<Usage, UnpackError> {
    unpack(tar(items).as_slice(), target, lower, Limits { keep_free: 0, ..Limits::default() })
}

const FILE: EntryType = EntryType::Regular;
const DIRECTORY: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: owners and devices need root");
    }
    root
}

#[test]
fn an_ordinary_layer() {
    if !is_root() {
        return;
    }
    let target = tempfile::tempdir().unwrap();
    let usage = run(
        target.path(),
        &[],
        &[
            ("./", DIRECTORY, b"", 0o755),
            ("bin", LINK, b"usr/bin", 0o777),
            ("usr/bin/", DIRECTORY, b"", 0o755),
            ("bin/tool", FILE, b"program", 0o4755),
            ("etc/.wh.gone", FILE, b"", 0o600),
            ("var/.wh..wh..opq", FILE, b"", 0o600),
            ("hard", EntryType::Link, b"usr/bin/tool", 0o755),
            ("pipe", EntryType::Fifo, b"", 0o644),
            ("null", EntryType::Char, b"", 0o666),
        ],
    )
    .unwrap();
    let at = |path: &str| target.path().join(path);
    assert_eq!(fs::read(at("usr/bin/tool")).unwrap(), b"program");
    let metadata = fs::metadata(at("usr/bin/tool")).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.nlink(), metadata.mtime()), (0o4755, 2, 1_000_000_000));
    let gone = fs::symlink_metadata(at("etc/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert!(fs::symlink_metadata(at("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(fs::symlink_metadata(at("null")).unwrap().rdev(), libc::makedev(1, 3));
    assert_eq!(fs::metadata(at("usr/bin")).unwrap().mtime(), 1_000_000_000);
    assert_eq!((usage.bytes, usage.inodes), (7, 9));
}

#[test]
fn hostile_names_reach_nothing_outside() {
    if !is_root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("victim"), "whole").unwrap();
    let path = outside.path().to_str().unwrap().to_owned();
    let cases: Vec<Vec<Item<'_>>> = vec![
        vec![("../escape", FILE, b"x", 0o644)],
        vec![("a/../../escape", FILE, b"x", 0o644)],
        vec![("link", LINK, path.as_bytes(), 0o777), ("link/escape", FILE, b"x", 0o644)],
        vec![("link", LINK, b"../../../../../../../../tmp", 0o777), ("link/escape", FILE, b"x", 0o644)],
        vec![("a", LINK, path.as_bytes(), 0o777), ("b", LINK, b"a", 0o777), ("b/escape", FILE, b"x", 0o644)],
        vec![("victim", EntryType::Link, b"../victim", 0o644)],
        vec![("l", LINK, path.as_bytes(), 0o777), ("x", EntryType::Link, b"l/victim", 0o644)],
        vec![("loop", LINK, b"loop", 0o777), ("loop/x", FILE, b"x", 0o644)],
        vec![("l", LINK, path.as_bytes(), 0o777), ("l/.wh.victim", FILE, b"", 0o644)],
        vec![("l", LINK, path.as_bytes(), 0o777), ("l/.wh..wh..opq", FILE, b"", 0o644)],
        vec![("l", LINK, path.as_bytes(), 0o777), (".wh.l/victim", FILE, b"", 0o644)],
        vec![("d/", DIRECTORY, b"", 0o755), ("d/.wh...", FILE, b"", 0o644)],
        vec![("d/", DIRECTORY, b"", 0o755), ("d/.wh..", FILE, b"", 0o644)],
        vec![(".wh...", FILE, b"", 0o644)],
        vec![(".wh.", FILE, b"", 0o644)],
        vec![("l", LINK, path.as_bytes(), 0o777), ("l/victim", FILE, b"changed", 0o644)],
    ];
    for items in cases {
        // Deep enough that a mistake stays in a directory of the test's own.
        let own = tempfile::tempdir().unwrap();
        let target = own.path().join("layers/one");
        fs::create_dir_all(&target).unwrap();
        fs::create_dir(own.path().join("layers/other")).unwrap();
        let _ = run(&target, &[], &items);
        assert!(own.path().join("layers/other").is_dir() && target.is_dir(), "{items:?}");
        let names: Vec<_> = fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["victim"], "{items:?}");
        assert_eq!(fs::read_to_string(outside.path().join("victim")).unwrap(), "whole", "{items:?}");
        assert_eq!(fs::metadata(outside.path().join("victim")).unwrap().nlink(), 1, "{items:?}");
        assert!(!own.path().join("layers/escape").exists());
    }
    assert!(!Path::new("/tmp/escape").exists());
}

#[test]
fn a_whiteout_of_the_directory_above_is_refused() {
    if !is_root() {
        return;
    }
    for name in [".wh...", "d/.wh...", "d/.wh.."] {
        let own = tempfile::tempdir().unwrap();
        let target = own.path().join("layers/one");
        fs::create_dir_all(&target).unwrap();
        let items: [Item<'_>; 3] =
            [("d/", DIRECTORY, b"", 0o755), ("d/kept", FILE, b"x", 0o644), (name, FILE, b"", 0o644)];
        let refused = run(&target, &[], &items);
        assert!(refused.is_err(), "{name}: {refused:?}");
        assert!(target.join("d/kept").is_file(), "{name}");
    }
}

#[test]
fn absolute_names_are_below_the_root() {
    if !is_root() {
        return;
    }
    let target = tempfile::tempdir().unwrap();
    run(target.path(), &[], &[("/etc/passwd", FILE, b"x", 0o644)]).unwrap();
    assert_eq!(fs::read(target.path().join("etc/passwd")).unwrap(), b"x");
}

#[test]
fn lower_layers_shape_what_is_missing() {
    if !is_root() {
        return;
    }
    let lower = tempfile::tempdir().unwrap();
    fs::create_dir_all(lower.path().join("usr/bin")).unwrap();
    fs::create_dir(lower.path().join("private")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    fs::set_permissions(lower.path().join("private"), mode).unwrap();
    symlink("usr/bin", lower.path().join("bin")).unwrap();
    let target = tempfile::tempdir().unwrap();
    let items: [Item<'_>; 2] = [("bin/x", FILE, b"x", 0o755), ("private/y", FILE, b"y", 0o644)];
    run(target.path(), &[lower.path().to_owned()], &items).unwrap();
    assert!(fs::symlink_metadata(target.path().join("bin")).unwrap().is_symlink());
    assert_eq!(fs::read(target.path().join("usr/bin/x")).unwrap(), b"x");
    assert_eq!(fs::metadata(target.path().join("private")).unwrap().mode() & 0o7777, 0o1777);
}

#[test]
fn an_entry_replaces_an_earlier_one() {
    if !is_root() {
        return;
    }
    let target = tempfile::tempdir().unwrap();
    let items: [Item<'_>; 5] = [
        ("d/deep/file", FILE, b"1", 0o644),
        ("d", FILE, b"2", 0o644),
        ("e", LINK, b"/etc", 0o777),
        ("e", FILE, b"3", 0o644),
        ("e", FILE, b"4", 0o644),
    ];
    run(target.path(), &[], &items).unwrap();
    assert_eq!(fs::read(target.path().join("d")).unwrap(), b"2");
    assert_eq!(fs::read(target.path().join("e")).unwrap(), b"4");
}

#[test]
fn directories_that_no_entry_names() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let deep = format!("{}file", "d/".repeat(MAX_LINKS + 5));
    run(directory.path(), &[], &[(&deep, FILE, b"1", 0o644)]).unwrap();
    assert_eq!(fs::read(directory.path().join(deep)).unwrap(), b"1");
    // Links that lead to each other end all the same.
    let looped = run(
        directory.path(),
        &[],
        &[("one", LINK, b"two/x", 0), ("two", LINK, b"one/y", 0), ("one/file", FILE, b"3", 0o644)],
    );
    assert!(looped.is_err());
}

#[test]
fn bounds_hold() {
    if !is_root() {
        return;
    }
    let many = [("a", DIRECTORY, b"".as_slice(), 0o755), ("b", DIRECTORY, b"", 0o755)];
    let target = tempfile::tempdir().unwrap();
    let limits = Limits { entries: 1, keep_free: 0 };
    let refused = unpack(tar(&many).as_slice(), target.path(), &[], limits);
    assert!(matches!(refused, Err(UnpackError::Entries(1))), "{refused:?}");
    // A bomb: more than the disk may lose.
    let big = vec![0u8; usize::try_from(ROOM_EVERY).unwrap()];
    let limits = Limits { entries: 9, keep_free: u64::MAX };
    let refused = unpack(tar(&[("zeros", FILE, &big, 0o644)]).as_slice(), target.path(), &[], limits);
    assert!(matches!(refused, Err(UnpackError::Room { .. })), "{refused:?}");
    assert!(matches!(
        unpack(&b"no tar at all, but long enough"[..], target.path(), &[], Limits::default()),
        Err(UnpackError::Archive(_)) | Ok(_)
    ));
}

#[test]
fn a_layer_of_many_files_is_unpacked_and_counted() {
    if !is_root() {
        return;
    }
    const FILES: usize = 4_000;
    let names: Vec<String> = (0..FILES).map(|number| format!("d/{}/f{number}", number % 100)).collect();
    let items: Vec<Item<'_>> =
        names.iter().map(|name| (name.as_str(), FILE, b"".as_slice(), 0o644)).collect();
    let target = tempfile::tempdir().unwrap();
    let most = u64::try_from(FILES).unwrap();
    let limits = Limits { entries: most, keep_free: 0 };
    let usage = unpack(tar(&items).as_slice(), target.path(), &[], limits).unwrap();
    assert!((most..most + 200).contains(&usage.inodes), "{usage:?}");
    assert_eq!(fs::read_dir(target.path().join("d/7")).unwrap().count(), FILES / 100);
    // One fewer, and nothing after the last one that may be is looked at.
    let target = tempfile::tempdir().unwrap();
    let limits = Limits { entries: most - 1, keep_free: 0 };
    let refused = unpack(tar(&items).as_slice(), target.path(), &[], limits);
    assert!(matches!(refused, Err(UnpackError::Entries(limit)) if limit == most - 1), "{refused:?}");
    assert!(!target.path().join(&names[FILES - 1]).exists());
}

#[test]
fn headers_are_not_read_beyond_their_bound() {
    if !is_root() {
        return;
    }
    let refuse = |kind: EntryType, content: &[u8]| {
        let target = tempfile::tempdir().unwrap();
        let refused = run(target.path(), &[], &[("x", kind, content, 0o644), ("file", FILE, b"", 0o644)]);
        refused.unwrap_err()
    };
    let long = vec![b'a'; usize::try_from(HEADER_BYTES).unwrap()];
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let refused = crate::core::chain(&refuse(kind, &long));
        assert!(refused.contains("bytes of headers"), "{kind:?}: {refused}");
    }
    // One for all of an archive is passed over, and content of what has none too.
    let target = tempfile::tempdir().unwrap();
    let items: [Item<'_>; 3] = [
        ("g", EntryType::XGlobalHeader, &long, 0o644),
        ("pipe", EntryType::Fifo, &long, 0o644),
        ("file", FILE, b"x", 0o644),
    ];
    run(target.path(), &[], &items).unwrap();
    assert_eq!(fs::read(target.path().join("file")).unwrap(), b"x");
}

#[test]
fn holes_that_do_not_fit_are_refused_before_they_are_read() {
    if !is_root() {
        return;
    }
    let sparse = |length: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_path("hole").unwrap();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_mode(0o644);
        header.set_size(0);
        let gnu = header.as_gnu_mut().unwrap();
        // A block of no bytes at the end of it all.
        gnu.sparse[0].set_offset(length);
        gnu.sparse[0].set_length(0);
        gnu.set_real_size(length);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(512 * 3, 0);
        bytes
    };
    let limits = Limits { keep_free: 0, ..Limits::default() };
    let target = tempfile::tempdir().unwrap();
    let refused = unpack(sparse(1 << 60).as_slice(), target.path(), &[], limits);
    assert!(matches!(refused, Err(UnpackError::Room { .. })), "{refused:?}");
    let usage = unpack(sparse(1 << 20).as_slice(), target.path(), &[], limits).unwrap();
    let metadata = fs::metadata(target.path().join("hole")).unwrap();
    assert_eq!((usage.bytes, metadata.len(), metadata.blocks()), (0, 1 << 20, 0));
}

#[test]
fn times_of_extended_headers() {
    assert_eq!(parse_time("12.5"), Some((12, 500_000_000)));
    assert_eq!(parse_time("12"), Some((12, 0)));
    assert_eq!(parse_time("x"), None);
}

/// A file entry after an extended header.
fn extended(pairs: &[(&str, &str)], content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions(pairs.iter().map(|(key, value)| (*key, value.as_bytes()))).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, "GNUSparseFile.1/name", content).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn holes_of_extended_headers_are_neither_read_nor_written() {
    if !is_root() {
        return;
    }
    const SIZE: &str = "268435456";
    let list = |text: &str| {
        let mut content = text.as_bytes().to_vec();
        content.resize(512, 0);
        content.extend_from_slice(b"headtail");
        content
    };
    let new = |more: &[(&'static str, &'static str)], content: &[u8]| {
        let name = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "d/file")];
        extended(&[&name[..], more].concat(), content)
    };
    let whole = ("GNU.sparse.realsize", SIZE);
    let old = [("GNU.sparse.size", SIZE), ("GNU.sparse.numblocks", "2"), ("GNU.sparse.name", "d/file")];
    let parts = "2\n0\n4\n268435452\n4\n";
    let oldest = [
        ("GNU.sparse.size", SIZE),
        ("GNU.sparse.numblocks", "2"),
        ("GNU.sparse.offset", "0"),
        ("GNU.sparse.numbytes", "4"),
        ("GNU.sparse.offset", "268435452"),
        ("GNU.sparse.numbytes", "4"),
    ];
    for (archive, name) in [
        (new(&[whole], &list(parts)), "d/file"),
        (extended(&[&old[..], &[("GNU.sparse.map", "0,4,268435452,4")]].concat(), b"headtail"), "d/file"),
        (extended(&oldest, b"headtail"), "GNUSparseFile.1/name"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let usage =
            unpack(archive.as_slice(), directory.path(), &[], Limits { keep_free: 0, ..Limits::default() });
        assert_eq!(usage.unwrap(), Usage { bytes: 8, inodes: 1 });
        let path = directory.path().join(name);
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.len().to_string(), SIZE);
        assert!(metadata.blocks() < 64, "{}", metadata.blocks());
        let mut file = File::open(&path).unwrap();
        file.seek(SeekFrom::End(-6)).unwrap();
        let mut end = Vec::new();
        file.read_to_end(&mut end).unwrap();
        assert_eq!(end, b"\0\0tail");
    }
    for broken in [
        new(&[whole], &list("2\n4\n4\n0\n4\n")),
        new(&[whole], &list("1\n268435456\n4\n")),
        new(&[whole], &list("1\n18446744073709551615\n4\n")),
        new(&[whole], &list("9999999999\n")),
        new(&[whole], &list("1\nx\n4\n")),
        new(&[whole], &list("1\n0\n400\n")),
        new(&[whole], b"2\n0"),
        new(&[("GNU.sparse.realsize", "9223372036854775807")], &list(parts)),
        new(&[("GNU.sparse.offset", "0")], &list(parts)),
        extended(&old, b"headtail"),
        extended(&oldest[..3], b"headtail"),
        extended(&[oldest[0], oldest[3]], b"headtail"),
        extended(&[oldest[0], oldest[2], oldest[2]], b"headtail"),
        extended(&[&old[2..], &oldest[..]].concat(), b"headtail"),
        extended(&[&old[..], &[("GNU.sparse.map", "0,4,1")]].concat(), b"headtail"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let refused =
            unpack(broken.as_slice(), directory.path(), &[], Limits { keep_free: 0, ..Limits::default() });
        assert!(refused.is_err());
    }
}
