//! Reading, following, rotating under a reader.

use std::{
    fs,
    io::Write,
    path::Path,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
};

use futures::StreamExt;

use super::*;

type Output = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

fn append(path: &Path, tag: &str, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(format!("2016-10-06T00:17:09.669794202Z stdout {tag} {text}\n").as_bytes()).unwrap();
}

fn container(running: bool) -> (Arc<AtomicBool>, StillRuns) {
    let state = Arc::new(AtomicBool::new(running));
    let seen = state.clone();
    (state, Arc::new(move || Box::pin(std::future::ready(seen.load(Ordering::Acquire)))))
}

async fn output(path: &Path, options: Options, still_runs: StillRuns) -> Output {
    Box::pin(open(path.to_owned(), options, still_runs).await.unwrap())
}

/// Reads until `want` has come, and fails if anything else does.
async fn expect(output: &mut Output, want: &str) {
    let mut text = String::new();
    while text.len() < want.len() {
        let next = tokio::time::timeout(Duration::from_secs(20), output.next()).await;
        let piece = next.unwrap_or_else(|_| panic!("only {text:?} of {want:?} came"));
        text.push_str(std::str::from_utf8(&piece.expect("there is more").unwrap()).unwrap());
    }
    assert_eq!(text, want);
}

async fn expect_end(output: &mut Output) {
    let next = tokio::time::timeout(Duration::from_secs(20), output.next()).await.expect("it ends");
    assert!(next.is_none(), "{next:?}");
}

#[tokio::test]
async fn what_is_there_is_read_over_rotated_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    fs::write(directory.path().join("0.log.20260101-000000.gz"), "compressed").unwrap();
    let before = directory.path().join("0.log.20260102-000000");
    for text in ["a", "b"] {
        append(&before, "F", text);
    }
    for text in ["c", "d"] {
        append(&path, "F", text);
    }
    for (tail_lines, want) in
        [(None, "a\nb\nc\nd\n"), (Some(1), "d\n"), (Some(3), "b\nc\nd\n"), (Some(9), "a\nb\nc\nd\n")]
    {
        let mut read = output(&path, Options { tail_lines, ..Default::default() }, container(true).1).await;
        expect(&mut read, want).await;
        expect_end(&mut read).await;
    }
    let mut read =
        output(&path, Options { tail_lines: Some(0), ..Default::default() }, container(true).1).await;
    expect_end(&mut read).await;
    let format = Format { limit_bytes: Some(3), ..Default::default() };
    let mut read =
        output(&path, Options { format, follow: true, ..Default::default() }, container(true).1).await;
    expect(&mut read, "a\nb").await;
    expect_end(&mut read).await;
}

#[tokio::test]
async fn a_missing_log_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let outcome = open(directory.path().join("0.log"), Options::default(), container(true).1).await;
    assert_eq!(outcome.err().unwrap().kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn following_ends_with_the_container() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    append(&path, "F", "before");
    let (running, still_runs) = container(true);
    let mut read = output(&path, Options { follow: true, ..Default::default() }, still_runs).await;
    expect(&mut read, "before\n").await;
    append(&path, "P", "half ");
    expect(&mut read, "half ").await;
    append(&path, "F", "done");
    expect(&mut read, "done\n").await;
    running.store(false, Ordering::Release);
    append(&path, "F", "last");
    expect(&mut read, "last\n").await;
    expect_end(&mut read).await;
}

#[tokio::test]
async fn following_goes_on_in_the_new_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    append(&path, "F", "one");
    let (running, still_runs) = container(true);
    let options = Options { follow: true, tail_lines: Some(0), ..Default::default() };
    let mut read = output(&path, options, still_runs).await;
    append(&path, "F", "two");
    expect(&mut read, "two\n").await;
    let old = directory.path().join("0.log.20260101-000000");
    fs::rename(&path, &old).unwrap();
    // The runtime has not noticed yet.
    append(&old, "F", "three");
    expect(&mut read, "three\n").await;
    fs::write(&path, "").unwrap();
    append(&old, "F", "four");
    append(&path, "F", "five");
    expect(&mut read, "four\nfive\n").await;
    append(&path, "F", "six");
    expect(&mut read, "six\n").await;
    running.store(false, Ordering::Release);
    expect_end(&mut read).await;
}

#[tokio::test]
async fn what_ended_before_is_read_and_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    append(&path, "F", "all");
    let mut read = output(&path, Options { follow: true, ..Default::default() }, container(false).1).await;
    expect(&mut read, "all\n").await;
    expect_end(&mut read).await;
}
