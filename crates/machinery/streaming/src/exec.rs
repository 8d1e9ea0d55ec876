//! Exec and attach: the client speaks WebSocket channels, the runtime SPDY streams. Source: KEP-4006.
//!
//! A message's first byte is its channel: 0 standard input, 1 output, 2 error, 3 the outcome, 4 terminal sizes; 255 closes the
//! channel that the second byte names.

use tokio::io::{AsyncRead, AsyncWrite};

use crate::websocket::Message;
use crate::{Error, spdy, websocket};

/// The WebSocket subprotocol that is translated.
pub const PROTOCOL: &str = "v5.channel.k8s.io";
/// What the SPDY side is asked to speak, in `X-Stream-Protocol-Version`.
pub const SPDY_PROTOCOL: &str = "v4.channel.k8s.io";

const CLOSE: u8 = 255;

/// Which streams there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; never with a terminal.
    pub stderr: bool,
    /// A terminal, and so its sizes.
    pub tty: bool,
}

/// One channel and the stream that carries it.
#[derive(Clone, Copy, Debug)]
struct Channel {
    number: u8,
    stream: u32,
    /// Whether the runtime may still send on it.
    open: bool,
}

/// Carries everything from one side to the other until the runtime has said all, or the client goes away.
///
/// # Errors
/// A connection failed or a peer broke its protocol. The client is told by a closing message where that is possible.
pub async fn translate<C, S>(client: C, runtime: S, streams: Streams) -> Result<(), Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (client_read, client_write) = tokio::io::split(client);
    let (runtime_read, runtime_write) = tokio::io::split(runtime);
    let mut to_client = websocket::Writer::new(client_write);
    let outcome = carry(
        &mut websocket::Reader::new(client_read),
        &mut to_client,
        &mut spdy::Reader::new(runtime_read),
        &mut spdy::Writer::client(runtime_write),
        streams,
    )
    .await;
    let closed = match &outcome {
        Ok(()) => to_client.close(1000, "").await,
        Err(error) => to_client.close(1011, &error.to_string()).await,
    };
    // A client that has gone cannot be told; that is no failure of the stream.
    outcome.and(closed.or(Ok(())))
}

async fn carry<CR, CW, SR, SW>(
    from_client: &mut websocket::Reader<CR>,
    to_client: &mut websocket::Writer<CW>,
    from_runtime: &mut spdy::Reader<SR>,
    to_runtime: &mut spdy::Writer<SW>,
    streams: Streams,
) -> Result<(), Error>
where
    CR: AsyncRead + Unpin,
    CW: AsyncWrite + Unpin,
    SR: AsyncRead + Unpin,
    SW: AsyncWrite + Unpin,
{
    let mut channels = Vec::new();
    for (wanted, number, kind) in [
        // The outcome first: a runtime refuses streams before it knows where to say why.
        (true, 3, "error"),
        (streams.stdin, 0, "stdin"),
        (streams.stdout, 1, "stdout"),
        (streams.stderr && !streams.tty, 2, "stderr"),
        (streams.tty, 4, "resize"),
    ] {
        if wanted {
            let stream = to_runtime.open(&[("streamtype", kind)]).await?;
            channels.push(Channel { number, stream, open: matches!(number, 1..=3) });
        }
    }
    let mut client_done = false;
    loop {
        tokio::select! {
            frame = from_runtime.next() => match frame? {
                Some(spdy::Frame::Data { stream, bytes, last }) => {
                    let Some(channel) = channels.iter_mut().find(|channel| channel.stream == stream) else { continue };
                    channel.open &= !last;
                    if !bytes.is_empty() {
                        to_client.binary(&[&[channel.number], &bytes]).await?;
                    }
                }
                Some(spdy::Frame::Reply { stream, last: true } | spdy::Frame::Reset { stream, .. }) => {
                    if let Some(channel) = channels.iter_mut().find(|channel| channel.stream == stream) {
                        channel.open = false;
                    }
                }
                Some(spdy::Frame::Ping(number)) => to_runtime.pong(number).await?,
                Some(_) => {}
                None => return Ok(()),
            },
            message = from_client.next(), if !client_done => match message? {
                Some(Message::Data(data)) => forward(&data, &mut channels, to_runtime).await?,
                Some(Message::Ping(payload)) => to_client.pong(&payload).await?,
                // The client has gone: the runtime is told by the end of the connection.
                Some(Message::Close) | None => return Ok(()),
            },
        }
        if channels.iter().all(|channel| !channel.open) {
            client_done = true;
        }
        if client_done {
            return Ok(());
        }
    }
}

/// One message of the client's to its stream. Channels that the client did not ask for, or may not write to, are ignored,
/// as upstream ignores them.
async fn forward<W: AsyncWrite + Unpin>(
    data: &[u8],
    channels: &mut [Channel],
    to_runtime: &mut spdy::Writer<W>,
) -> Result<(), Error> {
    let stream_of = |number: u8| {
        channels.iter().find(|c| c.number == number && matches!(number, 0 | 4)).map(|c| c.stream)
    };
    match data {
        [CLOSE, number] => {
            if let Some(stream) = stream_of(*number) {
                to_runtime.data(stream, &[], true).await?;
            }
        }
        [number, payload @ ..] if !payload.is_empty() => {
            if let Some(stream) = stream_of(*number) {
                to_runtime.data(stream, payload, false).await?;
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
