//! Port-forward: the client speaks SPDY inside binary WebSocket messages; the bytes go to the kubelet as they are.
//! Source: KEP-4006, "SPDY over WebSocket".

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::websocket::Message;
use crate::{Error, websocket};

/// The WebSocket subprotocol.
pub const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// What the inner side is asked to speak, in `X-Stream-Protocol-Version`.
pub const SPDY_PROTOCOL: &str = "portforward.k8s.io";

/// Carries bytes both ways until either side ends.
///
/// # Errors
/// A connection failed, or the client broke the WebSocket protocol.
pub async fn tunnel<C, S>(client: C, inner: S) -> Result<(), Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (client_read, client_write) = tokio::io::split(client);
    let (mut inner_read, mut inner_write) = tokio::io::split(inner);
    let mut from_client = websocket::Reader::new(client_read);
    let mut to_client = websocket::Writer::new(client_write);
    let mut buffer = vec![0; 32 << 10];
    loop {
        tokio::select! {
            message = from_client.next() => match message? {
                Some(Message::Data(bytes)) => inner_write.write_all(&bytes).await?,
                Some(Message::Ping(payload)) => to_client.pong(&payload).await?,
                Some(Message::Close) | None => {
                    inner_write.shutdown().await?;
                    return Ok(());
                }
            },
            size = inner_read.read(&mut buffer) => match size? {
                0 => {
                    // A client that has gone cannot be told.
                    let _ = to_client.close(1000, "").await;
                    return Ok(());
                }
                size => to_client.binary(&[&buffer[..size]]).await?,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_pass_unchanged_both_ways() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let (inner, mut peer) = tokio::io::duplex(1 << 16);
        let task = tokio::spawn(tunnel(server, inner));
        client.write_all(&[0x82, 0x83, 0, 0, 0, 0, 1, 2, 3]).await.unwrap();
        let mut seen = [0; 3];
        peer.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, [1, 2, 3]);
        peer.write_all(&[9, 8]).await.unwrap();
        let mut frame = [0; 4];
        client.read_exact(&mut frame).await.unwrap();
        assert_eq!(frame, [0x82, 2, 9, 8]);
        drop(peer);
        let mut close = [0; 4];
        client.read_exact(&mut close).await.unwrap();
        assert_eq!(close, [0x88, 2, 0x03, 0xe8]);
        task.await.unwrap().unwrap();
    }
}
