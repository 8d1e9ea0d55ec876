//! Writes kubeconfig files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::{KeyPair, Secret};

/// A kubeconfig (YAML) with one cluster, one user, one context. Secret, because it holds the user's key.
///
/// `server` is a URL such as `https://10.0.0.1:6443`; `authority` is PEM.
pub fn write(cluster: &str, user: &str, server: &str, authority: &str, credentials: &KeyPair) -> Secret {
    // JSON strings are YAML strings, whatever they contain.
    let quote = |text: &str| serde_json::Value::from(text).to_string();
    let (context, cluster, user) = (quote(&format!("{user}@{cluster}")), quote(cluster), quote(user));
    let server = quote(server);
    let authority = STANDARD.encode(authority);
    let certificate = STANDARD.encode(&credentials.certificate);
    let key = STANDARD.encode(credentials.key.expose());
    Secret::new(format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: {cluster}\n  cluster:\n    server: {server}\n    certificate-authority-data: {authority}\n\
         users:\n\
         - name: {user}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n\
         contexts:\n\
         - name: {context}\n  context:\n    cluster: {cluster}\n    user: {user}\n\
         current-context: {context}\n\
         preferences: {{}}\n"
    ))
}
