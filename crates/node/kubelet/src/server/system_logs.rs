//! `/logs/`: the machine's own logs, as files and lists of them.
//!
//! Source: upstream's kubelet, which serves `/var/log` by Go's file server; ranges are not served. Nothing outside of the directory is
//! ever opened: the kernel resolves the whole path beneath it, links included, so that one which leads out is as good as not there.

use std::{
    fs::File,
    io::{self, Read, Seek},
    os::fd::AsRawFd,
    path::Path,
};

use nix::errno::Errno;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio_util::io::ReaderStream;

use super::reply::{self, Reply, text};
use crate::volumes::sub_path::open_beneath;

/// How much of a file is looked at for what it is. Source: Go's `http.DetectContentType`.
const HEAD_BYTES: u64 = 512;
/// How much of a file is read at a time.
const PIECE_BYTES: usize = 64 << 10;

/// What stands in an address as something else than itself.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'=')
    .remove(b'@');

/// What was found.
enum Found {
    /// Names, those of directories with a slash.
    Directory(Vec<String>),
    File {
        file: File,
        is_text: bool,
    },
    Other,
}

/// Answers a request for `path`, the part of the address behind `/logs/`, below `root`; `None`: they are not served.
pub(crate) async fn serve(root: Option<&Path>, path: &str) -> Reply {
    let Some(root) = root else { return text(405, "logs endpoint is disabled.\n") };
    let Some(name) = decoded(path) else { return text(400, "400 Bad Request\n") };
    let is_directory = name.is_empty() || name.ends_with('/');
    let (root, wanted) = (root.to_owned(), name.trim_end_matches('/').to_owned());
    let found = tokio::task::spawn_blocking(move || find(&root, &wanted)).await;
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match found.map_err(io::Error::other).and_then(|found| found) {
        Ok(Found::Directory(names)) if is_directory => reply::html(list(&names)),
        Ok(Found::Directory(_)) => reply::moved(&format!("{last}/")),
        Ok(Found::File { .. }) if is_directory => reply::moved(&format!("../{last}")),
        Ok(Found::File { file, is_text }) => {
            let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(file), PIECE_BYTES);
            if is_text { reply::stream(pieces) } else { reply::bytes(pieces) }
        }
        Ok(Found::Other) => text(403, "403 Forbidden\n"),
        Err(error) => refused(&error),
    }
}

fn refused(error: &io::Error) -> Reply {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG) => text(404, "404 page not found\n"),
        // A path that leads out of the directory, and links in a circle.
        Some(Errno::EXDEV | Errno::ELOOP | Errno::EACCES | Errno::EPERM) => text(403, "403 Forbidden\n"),
        _ => text(500, "500 Internal Server Error\n"),
    }
}

/// A path without its escapes; `None` if one of them is none, or it has a zero byte.
fn decoded(path: &str) -> Option<String> {
    let is_escape = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if !path.split('%').skip(1).all(is_escape) {
        return None;
    }
    let decoded = percent_decode_str(path).decode_utf8().ok()?;
    Some(decoded.into_owned()).filter(|path| !path.contains('\0'))
}

/// Blocking.
fn find(root: &Path, path: &str) -> io::Result<Found> {
    // Opened for looking at only: neither a device nor a pipe notices.
    let opened = open_beneath(root, if path.is_empty() { "." } else { path }, false)?;
    let place = format!("/proc/self/fd/{}", opened.as_raw_fd());
    let about = std::fs::metadata(&place)?;
    if about.is_dir() {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&place)? {
            let entry = entry?;
            let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
            names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
        }
        names.sort();
        return Ok(Found::Directory(names));
    }
    if !about.is_file() {
        return Ok(Found::Other);
    }
    let mut file = File::open(&place)?;
    let is_text = begins_as_text(&file)?;
    file.rewind()?;
    Ok(Found::File { file, is_text })
}

/// Whether a file begins as text does.
fn begins_as_text(file: &File) -> io::Result<bool> {
    let mut head = Vec::new();
    file.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(!head.iter().any(|byte| matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f)))
}

/// A page of links, as Go's file server makes it.
fn list(names: &[String]) -> String {
    let mut page =
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n".to_owned();
    for name in names {
        page.push_str(&format!("<a href=\"{}\">{}</a>\n", link(name), escaped(name)));
    }
    page.push_str("</pre>\n");
    page
}

/// A name as a relative address.
fn link(name: &str) -> String {
    escaped(&utf8_percent_encode(name, PLAIN).to_string())
}

fn escaped(text: &str) -> String {
    let mut safe = String::new();
    for one in text.chars() {
        match one {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&#34;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_TYPE, LOCATION};
    use http_body_util::BodyExt;

    use super::*;

    /// Status, what the head says of it, and the body.
    async fn ask(root: &Path, path: &str) -> (u16, String, String) {
        let reply = serve(Some(root), path).await;
        let header = |name| reply.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let said = header(LOCATION).or(header(CONTENT_TYPE)).unwrap();
        let status = reply.status().as_u16();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        (status, said, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn files_and_lists_and_nothing_outside() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("log");
        std::fs::create_dir_all(root.join("pods")).unwrap();
        std::fs::write(directory.path().join("secret"), "s").unwrap();
        std::fs::write(root.join("messages"), "one\ntwo\n").unwrap();
        std::fs::write(root.join("wtmp"), [7, 0, 1]).unwrap();
        std::fs::write(root.join("pods/a<b> c"), "").unwrap();
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, root.join(name)).unwrap();
        link("messages", "inside");
        link("../secret", "outside");
        link("/etc/passwd", "absolute");
        link("circle", "circle");
        nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let plain = "text/plain; charset=utf-8";
        for (path, status, said, body) in [
            ("messages", 200, plain, "one\ntwo\n"),
            ("inside", 200, plain, "one\ntwo\n"),
            ("m%65ssages", 200, plain, "one\ntwo\n"),
            ("wtmp", 200, "application/octet-stream", "\u{7}\0\u{1}"),
            ("pods/a%3Cb%3E%20c", 200, plain, ""),
            ("pods", 301, "pods/", ""),
            ("messages/", 301, "../messages", ""),
            ("none", 404, plain, "404 page not found\n"),
            ("messages/none", 404, plain, "404 page not found\n"),
            ("outside", 403, plain, "403 Forbidden\n"),
            ("absolute", 403, plain, "403 Forbidden\n"),
            ("circle", 403, plain, "403 Forbidden\n"),
            ("pipe", 403, plain, "403 Forbidden\n"),
            ("../secret", 403, plain, "403 Forbidden\n"),
            ("%2e%2e/secret", 403, plain, "403 Forbidden\n"),
            ("pods/..%2f../secret", 403, plain, "403 Forbidden\n"),
            ("/etc/passwd", 403, plain, "403 Forbidden\n"),
            ("%2fetc/passwd", 403, plain, "403 Forbidden\n"),
            ("a%00b", 400, plain, "400 Bad Request\n"),
            ("a%zz", 400, plain, "400 Bad Request\n"),
        ] {
            let expected = (status, said.to_owned(), body.to_owned());
            assert_eq!(ask(&root, path).await, expected, "{path}");
        }
        let (status, said, page) = ask(&root, "").await;
        assert_eq!((status, said.as_str()), (200, "text/html; charset=utf-8"));
        assert!(page.contains("<a href=\"messages\">messages</a>\n<a href=\"outside\">"), "{page}");
        assert!(page.contains("<a href=\"pods/\">pods/</a>"), "{page}");
        let (.., page) = ask(&root, "pods/").await;
        assert!(page.contains("<a href=\"a%3Cb%3E%20c\">a&lt;b&gt; c</a>"), "{page}");
        assert_eq!(serve(None, "").await.status(), 405);
    }
}
