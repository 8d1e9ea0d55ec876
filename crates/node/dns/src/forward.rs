//! Asks upstream servers for names that are not the cluster's, passing the message through as it came.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long one server may take, as resolvers usually wait before they try again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where questions go that we cannot answer.
#[derive(Clone, Debug, Default)]
pub struct Upstreams {
    servers: Vec<SocketAddr>,
}

impl Upstreams {
    /// In order of preference.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Upstreams { servers }
    }

    /// The `nameserver` lines of a resolv.conf, without `own` addresses, which would send questions round in circles.
    pub fn from_resolv_conf(text: &str, own: &[SocketAddr]) -> Self {
        let servers = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("nameserver"))
            .filter_map(|rest| rest.trim().parse().ok())
            .map(|ip| SocketAddr::new(ip, 53))
            .filter(|server| !own.contains(server))
            .collect();
        Upstreams { servers }
    }

    /// The first server's answer to the message, byte for byte; `None` when none answers in time.
    pub async fn ask(&self, message: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        for server in &self.servers {
            let attempt = async {
                if over_tcp { ask_tcp(*server, message).await } else { ask_udp(*server, message).await }
            };
            match timeout(PATIENCE, attempt).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "upstream name server failed"),
                Err(_) => tracing::debug!(%server, "upstream name server did not answer in time"),
            }
        }
        None
    }
}

async fn ask_udp(server: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    // A socket per question: a fresh port each time makes forged answers improbable.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(message).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let size = socket.recv(&mut buffer).await?;
        // The identifier must be the question's; anything else is not an answer to it.
        if size >= 12 && buffer[..2] == message[..2] {
            buffer.truncate(size);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(message.len()).map_err(|_| io::Error::other("question too long"))?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(message).await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_resolv_conf_and_drops_itself() {
        let text =
            "# c\nsearch x\nnameserver 192.0.2.1\nnameserver 10.244.0.1\noptions ndots:2\nnameserver ::1\n";
        let upstreams = Upstreams::from_resolv_conf(text, &["10.244.0.1:53".parse().unwrap()]);
        let expected: Vec<SocketAddr> = vec!["192.0.2.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(upstreams.servers, expected);
    }
}
