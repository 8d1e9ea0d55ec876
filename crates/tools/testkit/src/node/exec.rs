//! A command in a container by WebSocket, as kubectl runs it: a connection of its own, `v5.channel.k8s.io`, until the server
//! says how the command ended.

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::load::connection::Target;

const STDOUT: u8 = 1;
const OUTCOME: u8 = 3;
/// More than any answer to a handshake.
const HEAD_BYTES: usize = 16 << 10;

/// Runs the command and returns what it printed.
pub(super) async fn run(target: &Target, pod: &str, command: &[&str]) -> Result<String> {
    let words: String = command.iter().map(|word| format!("&command={word}")).collect();
    let who = target.authorization().map_or_else(String::new, |value| format!("authorization: {value}\r\n"));
    // The key is the example of RFC 6455: it proves nothing, and only has to be there.
    let request = format!(
        "GET {pod}/exec?stdout=true&stderr=true{words} HTTP/1.1\r\nhost: kubernetes\r\n{who}connection: Upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-protocol: v5.channel.k8s.io\r\n\r\n"
    );
    let mut stream = target.connect("http/1.1").await?;
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < HEAD_BYTES, "no end of the answer's head");
        head.push(stream.read_u8().await.context("the handshake broke off")?);
    }
    let head = String::from_utf8_lossy(&head);
    ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut printed = Vec::new();
    loop {
        let message = message(&mut stream).await?;
        match message.split_first() {
            Some((&STDOUT, text)) => printed.extend_from_slice(text),
            Some((&OUTCOME, status)) => {
                let status: serde_json::Value = serde_json::from_slice(status)?;
                ensure!(status["status"] == "Success", "{status}");
                return Ok(String::from_utf8(printed)?);
            }
            _ => {}
        }
    }
}

/// The next message, whole; nothing for one that only the protocol needs.
async fn message(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let first = stream.read_u8().await.context("the connection ended before the command did")?;
    let length = match stream.read_u8().await? {
        126 => u64::from(stream.read_u16().await?),
        127 => stream.read_u64().await?,
        short => u64::from(short),
    };
    let mut payload = Vec::new();
    let read = stream.take(length).read_to_end(&mut payload).await?;
    ensure!(read as u64 == length, "a message broke off");
    match first {
        0x81 | 0x82 => Ok(payload),
        0x89 | 0x8a => Ok(Vec::new()),
        0x88 => bail!("the server closed the connection before the command ended"),
        other => bail!("a frame that begins with {other:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames() {
        let mut bytes: &[u8] = b"\x82\x03\x01hi\x89\x00\x82\x7e\x00\x02\x03x\x88\x00";
        assert_eq!(message(&mut bytes).await.unwrap(), b"\x01hi");
        assert_eq!(message(&mut bytes).await.unwrap(), b"");
        assert_eq!(message(&mut bytes).await.unwrap(), b"\x03x");
        assert!(message(&mut bytes).await.unwrap_err().to_string().contains("closed"));
        assert!(message(&mut &b"\x82\x05\x01"[..]).await.is_err());
    }
}
