//! Streams, as the kubelet uses them: an upgrade to SPDY on the address that the runtime names.

use podium_cri::v1;
use podium_streaming::spdy::{Frame, Reader, Writer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;

use super::Fixture;
use super::fixture::{LIMIT, eventually};

/// A client's connection.
struct Client {
    reader: Reader<ReadHalf<TcpStream>>,
    writer: Writer<WriteHalf<TcpStream>>,
}

async fn connect(url: &str, protocol: &str) -> Client {
    let asked = format!("Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}");
    let (read, write) = tokio::io::split(upgrade(url, "POST", &asked).await);
    Client { reader: Reader::new(read), writer: Writer::client(write) }
}

/// A connection that has been upgraded.
async fn upgrade(url: &str, method: &str, headers: &str) -> TcpStream {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let request =
        format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n{headers}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// The server's next message over WebSocket.
async fn message(stream: &mut TcpStream) -> Vec<u8> {
    let read = async {
        let mut head = [0; 2];
        stream.read_exact(&mut head).await.unwrap();
        let length = match head[1] {
            126 => stream.read_u16().await.unwrap(),
            short => u16::from(short),
        };
        let mut payload = vec![0; usize::from(length)];
        stream.read_exact(&mut payload).await.unwrap();
        payload
    };
    tokio::time::timeout(LIMIT, read).await.expect("the stream answers")
}

/// Waits until somebody in a container listens on port 8080.
async fn listens(fixture: &Fixture, container: &str) {
    eventually("the server listens", || async {
        let (_, out, _) =
            fixture.exec(container, "grep -c ':1F90 .* 0A ' /proc/net/tcp /proc/net/tcp6").await;
        if out.contains(":1") || out.contains(":2") { Ok(()) } else { Err(out) }
    })
    .await;
}

/// Reads a stream's bytes until one is complete by `enough`, or the connection ends.
async fn gather(
    client: &mut Client,
    enough: impl Fn(&std::collections::BTreeMap<u32, String>) -> bool,
) -> std::collections::BTreeMap<u32, String> {
    let mut said = std::collections::BTreeMap::<u32, String>::new();
    let read = async {
        while !enough(&said) {
            match client.reader.next().await.unwrap() {
                Some(Frame::Data { stream, bytes, .. }) => {
                    said.entry(stream).or_default().push_str(&String::from_utf8_lossy(&bytes));
                }
                Some(_) => {}
                None => break,
            }
        }
    };
    tokio::time::timeout(LIMIT, read).await.expect("the streams answer");
    said
}

pub(crate) async fn exec_attach_and_forward(fixture: &Fixture) {
    let pod = fixture.pod("p");
    let sandbox = fixture.run_pod(&pod).await;
    let mut config = fixture.script("c", "while read line; do echo got $line; done; echo over; sleep 1000");
    (config.stdin, config.stdin_once) = (true, true);
    let id = fixture.run(&sandbox, config, &pod).await;

    // Input, both outputs, an exit code.
    let exec = |cmd: &str, tty: bool| v1::ExecRequest {
        container_id: id.clone(),
        cmd: vec!["sh".into(), "-c".into(), cmd.into()],
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    };
    let url = fixture.cri.exec(exec("cat; echo oops >&2; exit 3", false)).await.unwrap().url;
    let mut client = connect(&url, "v4.channel.k8s.io").await;
    for kind in ["error", "stdin", "stdout", "stderr"] {
        client.writer.open(&[("streamtype", kind)]).await.unwrap();
    }
    client.writer.data(3, b"hello\n", false).await.unwrap();
    client.writer.data(3, b"", true).await.unwrap();
    let said =
        gather(&mut client, |said| said.contains_key(&1) && said.contains_key(&5) && said.contains_key(&7))
            .await;
    assert_eq!(said[&5], "hello\n");
    assert_eq!(said[&7], "oops\n");
    assert!(said[&1].contains("NonZeroExitCode") && said[&1].contains("\"message\":\"3\""), "{said:?}");
    // The address was for one use.
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let again =
        format!("POST /{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n");
    stream.write_all(again.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 404");

    // A terminal and its size.
    let until = "tty; until busybox stty size | busybox grep '37 101'; do busybox sleep 0.02; done";
    let url = fixture.cri.exec(exec(until, true)).await.unwrap().url;
    let mut client = connect(&url, "v4.channel.k8s.io").await;
    for kind in ["error", "stdin", "stdout", "resize"] {
        client.writer.open(&[("streamtype", kind)]).await.unwrap();
    }
    client.writer.data(7, br#"{"Width":101,"Height":37}"#, false).await.unwrap();
    let said = gather(&mut client, |said| said.get(&5).is_some_and(|text| text.contains("/dev/pts/"))).await;
    assert!(said[&5].contains("/dev/pts/"), "{said:?}");
    // A size that comes before the process is lost in containerd.
    client.writer.data(7, br#"{"Width":101,"Height":37}"#, false).await.unwrap();
    let said = gather(&mut client, |said| said.contains_key(&1)).await;
    assert!(said[&5].contains("37 101"), "{said:?}");
    assert!(said[&1].contains("Success"), "{said:?}");

    // Joining what runs; the one input ends with the first who had it.
    let attach =
        v1::AttachRequest { container_id: id.clone(), stdin: true, tty: false, stdout: true, stderr: true };
    let url = fixture.cri.attach(attach).await.unwrap().url;
    let mut client = connect(&url, "v4.channel.k8s.io").await;
    for kind in ["error", "stdin", "stdout", "stderr"] {
        client.writer.open(&[("streamtype", kind)]).await.unwrap();
    }
    client.writer.data(3, b"one\n", false).await.unwrap();
    let said = gather(&mut client, |said| said.get(&5).is_some_and(|text| text.contains("got one"))).await;
    assert_eq!(said[&5], "got one\n");
    drop(client);
    eventually("the input has ended", || async {
        let log = fixture.log("p", "c").await;
        if log == "got one\nover\n" { Ok(()) } else { Err(log) }
    })
    .await;

    // It ends with the client's input too, while they stay to hear the rest.
    let mut config = fixture.script("all", "cat; echo over; sleep 1000");
    (config.stdin, config.stdin_once) = (true, true);
    let container_id = fixture.run(&sandbox, config, &pod).await;
    let attach = v1::AttachRequest { container_id, stdin: true, tty: false, stdout: true, stderr: true };
    let url = fixture.cri.attach(attach).await.unwrap().url;
    let mut client = connect(&url, "v4.channel.k8s.io").await;
    for kind in ["error", "stdin", "stdout", "stderr"] {
        client.writer.open(&[("streamtype", kind)]).await.unwrap();
    }
    client.writer.data(3, b"one\n", false).await.unwrap();
    client.writer.data(3, b"", true).await.unwrap();
    let said = gather(&mut client, |said| said.get(&5).is_some_and(|text| text.contains("over"))).await;
    assert_eq!(said[&5], "one\nover\n");

    // Ports of the pod's own loopback.
    let mut config =
        fixture.script("server", "ip link set lo up; while true; do echo served | nc -l -p 8080; done");
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().capabilities =
        Some(v1::Capability { add_capabilities: vec!["NET_ADMIN".into()], ..Default::default() });
    let server = fixture.run(&sandbox, config, &pod).await;
    listens(fixture, &server).await;
    let request = v1::PortForwardRequest { pod_sandbox_id: sandbox.clone(), port: vec![8080] };
    let url = fixture.cri.port_forward(request).await.unwrap().url;
    let mut client = connect(&url, "portforward.k8s.io").await;
    for (kind, request, port) in
        [("error", "0", "8080"), ("data", "0", "8080"), ("error", "1", "9"), ("data", "1", "9")]
    {
        client.writer.open(&[("streamtype", kind), ("port", port), ("requestid", request)]).await.unwrap();
    }
    let said = gather(&mut client, |said| {
        said.contains_key(&3) && said.get(&5).is_some_and(|text| !text.is_empty())
    })
    .await;
    assert_eq!(said[&3], "served\n");
    assert!(said[&5].contains("refused"), "{said:?}");
    drop(client);

    // As older clients ask for it: a channel for each port's bytes and one for its error, which begin with the port.
    listens(fixture, &server).await;
    let request = v1::PortForwardRequest { pod_sandbox_id: sandbox.clone(), port: vec![8080, 9] };
    let url = fixture.cri.port_forward(request).await.unwrap().url;
    let asked = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 Sec-WebSocket-Protocol: v4.channel.k8s.io\r\nOrigin: http://localhost";
    let mut stream = upgrade(&url, "GET", asked).await;
    for expected in [[0, 0x90, 0x1f], [1, 0x90, 0x1f], [2, 9, 0], [3, 9, 0]] {
        assert_eq!(message(&mut stream).await, expected);
    }
    let (mut served, mut refused) = (String::new(), String::new());
    while served != "served\n" || !refused.contains("refused") {
        let message = message(&mut stream).await;
        let text = String::from_utf8_lossy(&message[1..]);
        match message[0] {
            0 => served.push_str(&text),
            3 => refused.push_str(&text),
            other => panic!("channel {other}: {text}"),
        }
    }
}
