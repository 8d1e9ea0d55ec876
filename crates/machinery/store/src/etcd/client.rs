//! Connections to the members of a cluster: which one is spoken to, deadlines, and what may be asked again.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

use crate::error::{OpenError, RemoteFault};
use crate::etcd::EtcdTls;
use crate::etcd::proto::etcdserverpb::StatusRequest;
use crate::etcd::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::etcd::version::Version;

/// How long one member has for an answer. etcd itself gives up after 5 s and two elections.
const ATTEMPT: Duration = Duration::from_secs(8);
/// How long is tried altogether, over all members.
const WHOLE: Duration = Duration::from_secs(15);
/// Between two rounds over all members.
const PAUSE: Duration = Duration::from_millis(50);
/// A connection on which nothing comes back for so long is given up. Source: upstream's keepalive time and timeout.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(10);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(3);

/// The members of a cluster. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Client {
    members: Arc<Vec<Member>>,
    /// The member that is asked first: the last that answered.
    preferred: Arc<AtomicUsize>,
    /// Certificates, as they were when the channels were made.
    tls: Option<Arc<(EtcdTls, Mutex<Material>)>>,
}

#[derive(Debug)]
struct Member {
    name: String,
    endpoint: Endpoint,
    channel: RwLock<Channel>,
}

impl Member {
    fn connect(endpoint: &Endpoint, tls: Option<&Material>) -> Result<Channel, tonic::transport::Error> {
        let endpoint = endpoint.clone();
        if endpoint.uri().scheme_str() != Some("https") {
            return Ok(endpoint.connect_lazy());
        }
        let tls = tls.map_or_else(ClientTlsConfig::new, Material::configuration);
        Ok(endpoint.tls_config(tls)?.connect_lazy())
    }
}

/// Whether a question may be asked a second time though the first may have been understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It may: it changes nothing, or nothing more the second time.
    Safe,
    /// Only if the first certainly did nothing.
    Unsafe,
}

impl Client {
    /// Prepares connections; nothing is connected yet. Must be called within a runtime.
    pub(super) fn new(endpoints: &[String], tls: Option<&EtcdTls>) -> Result<Client, OpenError> {
        let all = endpoints.join(",");
        let refused = |problem: String| OpenError::Remote { endpoints: all.clone(), problem };
        if endpoints.is_empty() {
            return Err(refused("no servers are given".to_owned()));
        }
        let material = tls.map(Material::read).transpose()?;
        let mut members = Vec::new();
        for name in endpoints {
            let with_scheme = match (name.contains("://"), tls) {
                (true, _) => name.clone(),
                (false, None) => format!("http://{name}"),
                (false, Some(_)) => format!("https://{name}"),
            };
            let endpoint = Endpoint::from_shared(with_scheme.clone())
                .map_err(|error| refused(format!("{name}: {error}")))?
                .connect_timeout(CONNECT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(PING)
                .keep_alive_timeout(PONG)
                .keep_alive_while_idle(true)
                .initial_connection_window_size(8 << 20)
                .initial_stream_window_size(4 << 20);
            let channel =
                Member::connect(&endpoint, material.as_ref()).map_err(|error| refused(chain(&error)))?;
            members.push(Member { name: with_scheme, endpoint, channel: RwLock::new(channel) });
        }
        let tls = tls.cloned().zip(material).map(|(files, read)| Arc::new((files, Mutex::new(read))));
        Ok(Client { members: Arc::new(members), preferred: Arc::default(), tls })
    }

    /// The member to ask, and its number for [`Client::leave`].
    pub(super) fn member(&self) -> (usize, Channel) {
        let number = self.preferred.load(Ordering::Relaxed) % self.members.len();
        (number, self.members[number].channel.read().clone())
    }

    /// The name of a member.
    pub(super) fn name(&self, number: usize) -> &str {
        &self.members[number].name
    }

    /// All names.
    pub(super) fn names(&self) -> String {
        self.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Asks the next member from now on, if this one is still the one that is asked. Where certificates have been replaced
    /// since the channels were made, makes new ones: a connection that lives needs them no more, and one that broke may have
    /// done so for theirs.
    pub(super) fn leave(&self, number: usize) {
        let next = (number + 1) % self.members.len();
        // Somebody else may have left it already.
        let _ = self.preferred.compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed);
        if let Err(error) = self.renew() {
            tracing::warn!(why = chain(&error), "the certificates for etcd could not be read again");
        }
    }

    fn renew(&self) -> Result<(), OpenError> {
        let Some((files, used)) = self.tls.as_deref() else { return Ok(()) };
        // Three small files; whoever finds a member gone waits longer for the next.
        let found = Material::read(files)?;
        let mut used = used.lock();
        if *used == found {
            return Ok(());
        }
        let made = self.members.iter().map(|member| Member::connect(&member.endpoint, Some(&found)));
        // One file may have been replaced and the other not yet: then all stay, and the next failure looks again.
        let channels = made
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| OpenError::Remote { endpoints: self.names(), problem: chain(&error) })?;
        for (member, channel) in self.members.iter().zip(channels) {
            *member.channel.write() = channel;
        }
        *used = found;
        tracing::info!("the certificates for etcd have changed; connecting with the new ones");
        Ok(())
    }

    /// The version of a member.
    pub(super) async fn version(&self, channel: Channel) -> Result<Version, Status> {
        let mut member = MaintenanceClient::new(channel);
        match tokio::time::timeout(ATTEMPT, member.status(StatusRequest::default())).await {
            Ok(answer) => Ok(Version::parse(&answer?.into_inner().version)),
            Err(_) => Err(Status::deadline_exceeded("etcd did not answer")),
        }
    }

    /// Asks, and asks others as long as that is safe and there is time.
    ///
    /// Errors: the last answer.
    pub(super) async fn call<T, F>(
        &self,
        repeat: Repeat,
        mut ask: impl FnMut(Channel) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let end = Instant::now() + WHOLE;
        let mut asked = 0;
        loop {
            let (number, channel) = self.member();
            let left = end.saturating_duration_since(Instant::now());
            let status = match tokio::time::timeout(ATTEMPT.min(left), ask(channel)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("etcd did not answer in time"),
            };
            let other = is_of_the_member(&status);
            if other {
                self.leave(number);
            }
            let again = match repeat {
                Repeat::Safe => other,
                Repeat::Unsafe => did_nothing(&status),
            };
            if !again || Instant::now() + PAUSE >= end {
                return Err(status);
            }
            asked += 1;
            if asked % self.members.len() == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether another member may answer better.
fn is_of_the_member(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Internal | Code::Unknown => true,
        Code::ResourceExhausted => status.message() == TOO_MANY,
        _ => false,
    }
}

const TOO_MANY: &str = "etcdserver: too many requests";

/// Whether the request was certainly not carried out, nor ever will be.
fn did_nothing(status: &Status) -> bool {
    if [TOO_MANY, "etcdserver: no leader"].contains(&status.message()) {
        return true;
    }
    // It was never sent.
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The fault in an answer to something that is not safe to repeat.
pub(super) fn fault(status: &Status) -> RemoteFault {
    // Everything that etcd refuses for what it is, it refuses before doing it.
    let refused = matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::Unimplemented
    );
    RemoteFault { message: describe(status), may_have_happened: !refused && !did_nothing(status) }
}

/// The fault in an answer to something that changes nothing.
pub(super) fn read_fault(status: &Status) -> RemoteFault {
    RemoteFault { message: describe(status), may_have_happened: false }
}

/// A status with why, in one line.
pub(super) fn describe(status: &Status) -> String {
    match std::error::Error::source(status) {
        None => status.message().to_owned(),
        Some(source) => chain(source),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// What certificate files hold. Never printed: there is a key among it.
#[derive(PartialEq, Eq)]
struct Material {
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").finish_non_exhaustive()
    }
}

impl Material {
    fn read(files: &EtcdTls) -> Result<Material, OpenError> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|source| OpenError::Io { step: "read", path: path.clone(), source })
        };
        let identity = files.identity.as_ref();
        Ok(Material {
            ca: files.ca.as_ref().map(read).transpose()?,
            identity: identity.map(|(certificate, key)| Ok((read(certificate)?, read(key)?))).transpose()?,
        })
    }

    fn configuration(&self) -> ClientTlsConfig {
        let mut configuration = ClientTlsConfig::new();
        if let Some(ca) = &self.ca {
            configuration = configuration.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = &self.identity {
            configuration = configuration.identity(Identity::from_pem(certificate, key));
        }
        configuration
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_certainly_did_nothing_is_repeated() {
        let unavailable = Status::unavailable("etcdserver: request timed out");
        assert!(!did_nothing(&unavailable) && is_of_the_member(&unavailable));
        assert!(fault(&unavailable).may_have_happened);
        let leaderless = Status::unavailable("etcdserver: no leader");
        assert!(did_nothing(&leaderless) && is_of_the_member(&leaderless));
        assert!(!fault(&leaderless).may_have_happened);
        let refused = Status::invalid_argument("etcdserver: request is too large");
        assert!(!is_of_the_member(&refused) && !fault(&refused).may_have_happened);
    }

    #[tokio::test]
    async fn a_member_that_is_not_there_did_nothing() {
        // Nothing listens on a port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.expect("a port").port();
        let client = Client::new(&[format!("127.0.0.1:{port}")], None).expect("prepared");
        let (number, channel) = client.member();
        let refused = client.version(channel).await.expect_err("nobody is there");
        assert!(did_nothing(&refused), "{refused:?}");
        assert!(describe(&refused).contains("refused"), "{}", describe(&refused));
        client.leave(number);
        assert_eq!(client.member().0, 0, "there is no other");
    }
}
