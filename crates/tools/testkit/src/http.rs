//! One HTTP request at a time, for asking test servers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A status code and a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200, for example.
    pub code: u16,
    /// The body.
    pub body: String,
}

/// GET over a connection of its own.
///
/// # Errors
/// No connection, no answer within five seconds, or an answer that is not HTTP.
pub fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no HTTP answer"))?;
    let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    Ok(Answer { code: code.ok_or_else(|| io::Error::other("no status code"))?, body: body.to_owned() })
}
