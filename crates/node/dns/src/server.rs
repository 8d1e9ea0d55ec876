//! Packets in, packets out: UDP and TCP on one address.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::RecordType;
use parking_lot::RwLock;
use podium_client::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::answer::{Answer, Domain, answer};
use crate::forward::Upstreams;
use crate::zone::Zone;

/// Questions being forwarded at once; beyond it they are refused rather than queued without bound.
const FORWARD_LIMIT: usize = 1000;
/// TCP connections at once.
const CONNECTION_LIMIT: usize = 256;
/// How long an idle TCP connection is kept, as RFC 7766 suggests "a few seconds".
const IDLE: Duration = Duration::from_secs(10);
/// What fits a UDP answer without EDNS (RFC 1035), and the most we send with it (DNS flag day 2020).
const PLAIN_LIMIT: u16 = 512;
const EDNS_LIMIT: u16 = 1232;

/// Everything needed to answer a message.
#[derive(Debug)]
pub struct Responder {
    /// The cluster's names.
    pub zone: RwLock<Zone>,
    /// The cluster's domain.
    pub domain: Domain,
    /// For all other names.
    pub upstreams: Upstreams,
    /// The address clients reach us by.
    pub server: Option<std::net::IpAddr>,
}

/// What to do with a message.
enum Verdict {
    /// Send this.
    Send(Box<Message>),
    /// Ask upstream and pass the answer through.
    Forward,
    /// Ask upstream for the alias's target and add what it says.
    Resolve(Box<Message>, Box<Message>),
}

impl Responder {
    fn judge(&self, request: &Message) -> Verdict {
        let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
        reply.metadata.recursion_desired = request.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.queries.clone_from(&request.queries);
        if let Some(asked) = &request.edns {
            let mut edns = hickory_proto::op::Edns::new();
            edns.set_max_payload(EDNS_LIMIT);
            edns.set_version(0);
            if asked.version() > 0 {
                reply.metadata.response_code = ResponseCode::BADVERS;
                reply.edns = Some(edns);
                return Verdict::Send(Box::new(reply));
            }
            reply.edns = Some(edns);
        }
        if request.metadata.op_code != OpCode::Query {
            reply.metadata.response_code = ResponseCode::NotImp;
            return Verdict::Send(Box::new(reply));
        }
        let [query] = request.queries.as_slice() else {
            reply.metadata.response_code = ResponseCode::FormErr;
            return Verdict::Send(Box::new(reply));
        };
        let kind = query.query_type();
        let zone = self.zone.read();
        match answer(&zone, &self.domain, query.name(), kind, self.server) {
            Answer::NotOurs => Verdict::Forward,
            Answer::Alias { record, target } => {
                reply.metadata.authoritative = true;
                reply.answers.push(*record);
                if let Answer::Reply { answers, .. } = answer(&zone, &self.domain, &target, kind, self.server)
                {
                    reply.answers.extend(answers);
                    return Verdict::Send(Box::new(reply));
                }
                let mut question = Message::query();
                question.metadata.id = fastrand::u16(..);
                question.metadata.recursion_desired = true;
                question.add_query(hickory_proto::op::Query::query(target, kind));
                Verdict::Resolve(Box::new(reply), Box::new(question))
            }
            Answer::Reply { code, mut answers, additionals } => {
                reply.metadata.authoritative = true;
                reply.metadata.response_code = code;
                if answers.is_empty() {
                    reply.authorities.extend(self.domain.authority(now_seconds()));
                }
                // Clients take the first address: a different one each time spreads them.
                if answers.len() > 1 && matches!(kind, RecordType::A | RecordType::AAAA) {
                    fastrand::shuffle(&mut answers);
                }
                reply.answers = answers;
                reply.additionals = additionals;
                Verdict::Send(Box::new(reply))
            }
        }
    }

    /// The answer to one message, `None` when it deserves none (not a question, or not DNS at all).
    async fn respond(&self, bytes: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let request = match Message::from_vec(bytes) {
            Ok(request) if request.metadata.message_type == MessageType::Query => request,
            Ok(_) => return None,
            Err(_) => return format_error(bytes),
        };
        let limit = match &request.edns {
            _ if over_tcp => u16::MAX,
            Some(edns) => edns.max_payload().clamp(PLAIN_LIMIT, EDNS_LIMIT),
            None => PLAIN_LIMIT,
        };
        match self.judge(&request) {
            Verdict::Send(reply) => encode(&reply, limit),
            Verdict::Forward => match self.upstreams.ask(bytes, over_tcp).await {
                Some(answer) => Some(answer),
                None => {
                    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
                    reply.metadata.recursion_desired = request.metadata.recursion_desired;
                    reply.metadata.recursion_available = true;
                    reply.metadata.response_code = ResponseCode::ServFail;
                    reply.queries = request.queries;
                    encode(&reply, limit)
                }
            },
            Verdict::Resolve(mut reply, question) => {
                if let Ok(bytes) = question.to_vec()
                    && let Some(found) = self.upstreams.ask(&bytes, over_tcp).await
                    && let Ok(found) = Message::from_vec(&found)
                {
                    reply.answers.extend(found.answers);
                }
                encode(&reply, limit)
            }
        }
    }

    /// Whether answering needs no waiting: most questions are for names of the cluster.
    fn is_local(&self, bytes: &[u8]) -> Option<Option<Vec<u8>>> {
        let request = Message::from_vec(bytes).ok()?;
        if request.metadata.message_type != MessageType::Query {
            return Some(None);
        }
        let limit =
            request.edns.as_ref().map_or(PLAIN_LIMIT, |e| e.max_payload().clamp(PLAIN_LIMIT, EDNS_LIMIT));
        match self.judge(&request) {
            Verdict::Send(reply) => Some(encode(&reply, limit)),
            Verdict::Forward | Verdict::Resolve(..) => None,
        }
    }
}

/// Serves until told to stop. Both sockets are bound by the caller, so that a taken port is its error.
pub async fn serve(udp: UdpSocket, tcp: TcpListener, responder: Arc<Responder>, shutdown: Shutdown) {
    let datagrams = serve_udp(Arc::new(udp), responder.clone(), shutdown.clone());
    let streams = serve_tcp(tcp, responder, shutdown);
    tokio::join!(datagrams, streams);
}

async fn serve_udp(socket: Arc<UdpSocket>, responder: Arc<Responder>, shutdown: Shutdown) {
    let mut forwarding = JoinSet::new();
    let mut buffer = vec![0; 65_535];
    loop {
        let (size, client) = tokio::select! {
            () = shutdown.cancelled() => return,
            Some(_) = forwarding.join_next(), if !forwarding.is_empty() => continue,
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // A client that closed its port is told to us here; it is no fault of the socket.
                Err(error) => {
                    tracing::debug!(%error, "receive");
                    continue;
                }
            },
        };
        let bytes = &buffer[..size];
        match responder.is_local(bytes) {
            Some(Some(reply)) => send(&socket, &reply, client).await,
            Some(None) => {}
            None if forwarding.len() >= FORWARD_LIMIT => {
                tracing::warn!("too many questions are being forwarded, one dropped");
            }
            None => {
                let (socket, responder, bytes) = (socket.clone(), responder.clone(), bytes.to_vec());
                forwarding.spawn(async move {
                    if let Some(reply) = responder.respond(&bytes, false).await {
                        send(&socket, &reply, client).await;
                    }
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(reply, client).await {
        tracing::debug!(%client, %error, "answer not sent");
    }
}

async fn serve_tcp(listener: TcpListener, responder: Arc<Responder>, shutdown: Shutdown) {
    let places = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "accept");
                    continue;
                }
            },
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let responder = responder.clone();
        connections.spawn(async move {
            let _place = place;
            if let Err(error) = converse(stream, &responder).await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
}

async fn converse(mut stream: TcpStream, responder: &Responder) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        match timeout(IDLE, stream.read_exact(&mut length)).await {
            Ok(Ok(_)) => {}
            // The client is done, or idle for too long.
            Ok(Err(_)) | Err(_) => return Ok(()),
        }
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        timeout(IDLE, stream.read_exact(&mut message)).await??;
        let Some(reply) = responder.respond(&message, true).await else { return Ok(()) };
        let length = u16::try_from(reply.len()).map_err(|_| io::Error::other("answer too long"))?;
        stream.write_all(&length.to_be_bytes()).await?;
        stream.write_all(&reply).await?;
    }
}

/// The message, or, when it is longer than `limit`, an empty one that says so.
fn encode(reply: &Message, limit: u16) -> Option<Vec<u8>> {
    let bytes = reply.to_vec().ok()?;
    if bytes.len() <= usize::from(limit) {
        return Some(bytes);
    }
    let mut short = Message::response(reply.metadata.id, reply.metadata.op_code);
    short.metadata = reply.metadata;
    short.metadata.truncation = true;
    short.queries.clone_from(&reply.queries);
    short.edns.clone_from(&reply.edns);
    short.to_vec().ok()
}

/// A refusal of bytes that do not parse, when at least their identifier can be read.
fn format_error(bytes: &[u8]) -> Option<Vec<u8>> {
    let id = u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]);
    Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok()
}

fn now_seconds() -> u32 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    u32::try_from(seconds & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
