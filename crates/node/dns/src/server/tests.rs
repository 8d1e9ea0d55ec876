//! A real server on loopback, with a forged upstream.

use hickory_proto::op::Query;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record};
use podium_client::ObjectKey;

use super::*;
use crate::zone::{EndpointName, Entry};

struct Harness {
    address: SocketAddr,
    shutdown: Shutdown,
    tasks: JoinSet<()>,
}

async fn start(endpoints: u8) -> Harness {
    let shutdown = Shutdown::new();
    let mut tasks = JoinSet::new();
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let upstream_address = upstream.local_addr().unwrap();
    let stop = shutdown.clone();
    tasks.spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let received =
                tokio::select! { () = stop.cancelled() => return, r = upstream.recv_from(&mut buffer) => r };
            let (size, client) = received.unwrap();
            let request = Message::from_vec(&buffer[..size]).unwrap();
            let mut reply = Message::response(request.metadata.id, OpCode::Query);
            reply.add_query(request.queries[0].clone());
            reply.add_answer(Record::from_rdata(
                request.queries[0].name().clone(),
                5,
                RData::A(A::new(198, 51, 100, 9)),
            ));
            upstream.send_to(&reply.to_vec().unwrap(), client).await.unwrap();
        }
    });
    let mut zone = Zone::default();
    let key = |name: &str| ObjectKey { namespace: "n".to_owned(), name: name.to_owned() };
    let endpoints = (0..endpoints)
        .map(|n| EndpointName { label: format!("e{n}"), address: [10, 0, 0, n].into(), ports: Vec::new() })
        .collect();
    zone.set(&key("many"), Some(&Entry::Headless { endpoints }));
    zone.set(&key("out"), Some(&Entry::External { name: "example.com".to_owned() }));
    let responder = Responder {
        zone: RwLock::new(zone),
        domain: Domain::parse("cluster.local").unwrap(),
        upstreams: Upstreams::new(vec![upstream_address]),
        server: None,
    };
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    tasks.spawn(serve(udp, tcp, Arc::new(responder), shutdown.clone()));
    Harness { address, shutdown, tasks }
}

impl Harness {
    async fn raw(&self, bytes: &[u8]) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(bytes, self.address).await.unwrap();
        let mut buffer = vec![0; 4096];
        let size = timeout(Duration::from_secs(20), socket.recv(&mut buffer)).await.unwrap().unwrap();
        Message::from_vec(&buffer[..size]).unwrap()
    }

    async fn ask(&self, name: &str) -> Message {
        self.raw(&question(name)).await
    }

    async fn ask_tcp(&self, name: &str) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let bytes = question(name);
        stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).await.unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).await.unwrap();
        Message::from_vec(&answer).unwrap()
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 77;
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    message.add_query(Query::query(name, RecordType::A));
    message.to_vec().unwrap()
}

#[tokio::test]
async fn answers_forwards_and_follows_aliases() {
    let harness = start(3).await;
    let reply = harness.ask("many.n.svc.cluster.local").await;
    assert_eq!((reply.metadata.id, reply.answers.len(), reply.metadata.authoritative), (77, 3, true));
    let reply = harness.ask("example.org").await;
    assert_eq!((reply.metadata.id, reply.answers[0].data.to_string().as_str()), (77, "198.51.100.9"));
    let reply = harness.ask("out.n.svc.cluster.local").await;
    let texts: Vec<String> = reply.answers.iter().map(|r| r.data.to_string()).collect();
    assert_eq!(texts, ["example.com.", "198.51.100.9"]);
    let reply = harness.ask("missing.n.svc.cluster.local").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(reply.authorities.len(), 1, "negative answers carry the start of authority");
    harness.stop().await;
}

#[tokio::test]
async fn long_answers_are_cut_on_udp_and_whole_on_tcp() {
    let harness = start(60).await;
    let reply = harness.ask("many.n.svc.cluster.local").await;
    assert!(reply.metadata.truncation && reply.answers.is_empty());
    let reply = harness.ask_tcp("many.n.svc.cluster.local").await;
    assert_eq!(reply.answers.len(), 60);
    harness.stop().await;
}

#[tokio::test]
async fn bad_messages_are_refused_and_harm_nobody() {
    let harness = start(1).await;
    let reply = harness.raw(&[0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 200]).await;
    assert_eq!((reply.metadata.id, reply.metadata.response_code), (9, ResponseCode::FormErr));
    let mut status = Message::query();
    status.metadata.id = 10;
    status.metadata.op_code = OpCode::Status;
    assert_eq!(harness.raw(&status.to_vec().unwrap()).await.metadata.response_code, ResponseCode::NotImp);
    assert_eq!(harness.ask("many.n.svc.cluster.local").await.answers.len(), 1);
    harness.stop().await;
}
