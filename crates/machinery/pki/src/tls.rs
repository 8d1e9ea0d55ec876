//! What rustls needs from us: certificates that can be replaced while serving, and a client certificate policy that leaves
//! judgement to the authenticator.

use std::fmt;
use std::sync::{Arc, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};

use crate::{Error, KeyPair};

/// The cryptography of the whole project: ring.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Asks clients for a certificate and lets the handshake go on with any, or none, as upstream does: the client
/// has proven to hold the key (the handshake's signature is checked), but who it is, and whether the certificate is
/// signed by us and in its time, is decided per request by the authenticator, which answers 401.
#[derive(Debug)]
pub struct AnyClientCertificate {
    algorithms: WebPkiSupportedAlgorithms,
    hints: Vec<DistinguishedName>,
}

impl AnyClientCertificate {
    /// Tells clients that these authorities' certificates are wanted (their subjects, DER); some clients choose by it.
    pub fn new(hints: Vec<DistinguishedName>) -> Arc<Self> {
        Arc::new(AnyClientCertificate { algorithms: provider().signature_verification_algorithms, hints })
    }
}

impl ClientCertVerifier for AnyClientCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Takes any certificate of a server, of whomever: for servers whose certificates are of their own making, to which nothing is
/// sent that others may not see. That the server holds the key is checked.
#[derive(Debug)]
pub struct AnyServerCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyServerCertificate {
    /// For a client's configuration.
    // Shared, as rustls wants it.
    pub fn new() -> Arc<Self> {
        Arc::new(AnyServerCertificate { algorithms: provider().signature_verification_algorithms })
    }
}

impl ServerCertVerifier for AnyServerCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A serving certificate that can be replaced; connections made afterwards get the new one.
pub struct ServingCertificate {
    current: RwLock<Arc<CertifiedKey>>,
}

impl fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingCertificate").finish_non_exhaustive()
    }
}

impl ServingCertificate {
    /// Serves this pair.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn new(pair: &KeyPair) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(ServingCertificate { current: RwLock::new(certified(pair)?) }))
    }

    /// Serves this pair from now on.
    ///
    /// # Errors
    /// [`Error::Malformed`]; the old one stays.
    pub fn replace(&self, pair: &KeyPair) -> Result<(), Error> {
        let new = certified(pair)?;
        *self.current.write().expect("no panic while held") = new;
        Ok(())
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().expect("no panic while held")))
    }
}

fn certified(pair: &KeyPair) -> Result<Arc<CertifiedKey>, Error> {
    let malformed = |detail: String| Error::Malformed { what: "serving certificate".to_owned(), detail };
    let key = CertifiedKey::from_der(pair.chain()?, pair.key_der()?, &provider())
        .map_err(|e| malformed(e.to_string()))?;
    Ok(Arc::new(key))
}

/// A server configuration: TLS 1.2 and 1.3 with rustls' (strong only) suites, the serving certificate, client certificates
/// asked for, HTTP/2 and HTTP/1.1 offered.
///
/// # Errors
/// [`Error::Crypto`] if the provider lacks a protocol version.
pub fn server_config(
    serving: Arc<ServingCertificate>,
    client_verifier: Arc<dyn ClientCertVerifier>,
) -> Result<rustls::ServerConfig, Error> {
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|_| Error::Crypto("no TLS version in common"))?
        .with_client_cert_verifier(client_verifier)
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
