//! A client of our own on one side, a runtime of our own on the other.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::spdy::Frame;

fn masked(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

/// The next unmasked frame of the server's: opcode and payload.
async fn next(client: &mut DuplexStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    client.read_exact(&mut head).await.unwrap();
    let mut payload = vec![0; usize::from(head[1])];
    client.read_exact(&mut payload).await.unwrap();
    (head[0] & 0x0f, payload)
}

#[tokio::test]
async fn input_goes_in_output_comes_out_and_the_outcome_ends_it() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let (runtime, peer) = tokio::io::duplex(1 << 16);
    let streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
    let translation = tokio::spawn(translate(server, runtime, streams));
    let (read, write) = tokio::io::split(peer);
    let (mut reader, mut writer) = (spdy::Reader::new(read), spdy::Writer::server(write));
    let mut kinds = Vec::new();
    for _ in 0..4 {
        let Some(Frame::Open { stream, headers, .. }) = reader.next().await.unwrap() else { panic!() };
        writer.reply(stream).await.unwrap();
        kinds.push((headers[0].1.clone(), stream));
    }
    let of = |kind: &str| kinds.iter().find(|(k, _)| k == kind).unwrap().1;
    client.write_all(&masked(b"\x00hello")).await.unwrap();
    client.write_all(&masked(&[255, 0])).await.unwrap();
    let stdin = of("stdin");
    assert_eq!(
        reader.next().await.unwrap(),
        Some(Frame::Data { stream: stdin, bytes: "hello".into(), last: false })
    );
    assert_eq!(
        reader.next().await.unwrap(),
        Some(Frame::Data { stream: stdin, bytes: "".into(), last: true })
    );
    writer.data(of("stdout"), b"out", true).await.unwrap();
    writer.data(of("stderr"), b"err", true).await.unwrap();
    writer.data(of("error"), br#"{"status":"Success"}"#, true).await.unwrap();
    assert_eq!(next(&mut client).await, (2, b"\x01out".to_vec()));
    assert_eq!(next(&mut client).await, (2, b"\x02err".to_vec()));
    assert_eq!(next(&mut client).await, (2, b"\x03{\"status\":\"Success\"}".to_vec()));
    assert_eq!(next(&mut client).await, (8, vec![0x03, 0xe8]));
    translation.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_terminal_has_sizes_and_no_error_stream_and_a_lost_client_ends_it() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let (runtime, peer) = tokio::io::duplex(1 << 16);
    let streams = Streams { stdin: true, stdout: true, stderr: true, tty: true };
    let translation = tokio::spawn(translate(server, runtime, streams));
    let (read, _write) = tokio::io::split(peer);
    let mut reader = spdy::Reader::new(read);
    let mut kinds = Vec::new();
    for _ in 0..4 {
        let Some(Frame::Open { headers, .. }) = reader.next().await.unwrap() else { panic!() };
        kinds.push(headers[0].1.clone());
    }
    assert_eq!(kinds, ["error", "stdin", "stdout", "resize"]);
    client.write_all(&masked(b"\x04{\"Width\":80,\"Height\":24}")).await.unwrap();
    // Written to a channel that is the runtime's: ignored.
    client.write_all(&masked(b"\x01no")).await.unwrap();
    let Some(Frame::Data { stream: 7, .. }) = reader.next().await.unwrap() else { panic!() };
    drop(client);
    translation.await.unwrap().unwrap();
    assert_eq!(reader.next().await.unwrap(), None, "the runtime sees the end of the connection");
}
