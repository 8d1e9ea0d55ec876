//! Client certificates that lie in files beside the kubeconfig: somebody renews them (kubeadm, a kubelet that rotates its own)
//! while the process runs, and whoever asks the API server by them must take the new ones before the old are over.
//!
//! Source: client-go's `transport/cert_rotation.go`. That one looks every five minutes and breaks open streams off; here the
//! directory tells, and streams end at their own time.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use kube::config::AuthInfo;
use podium_client::{Client, exchangeable};
use podium_kubelet::DirectoryWatch;

use super::Connection;
use crate::parts::Parts;

/// Pause before a directory that cannot be watched is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// The files that a certificate and its key are read from; none where they are in the kubeconfig itself.
fn files(identity: &AuthInfo) -> Vec<PathBuf> {
    let file = |data: bool, path: &Option<String>| path.as_ref().filter(|_| !data).map(PathBuf::from);
    let certificate = file(identity.client_certificate_data.is_some(), &identity.client_certificate);
    let key = file(identity.client_key_data.is_some(), &identity.client_key);
    certificate.into_iter().chain(key).collect()
}

impl Connection {
    /// A client by the kubeconfig's own credentials, which are read again when their files change.
    pub(crate) fn renewed_client(&self, parts: &mut Parts) -> Result<Client> {
        let files = files(&self.config.auth_info);
        let seen = contents(&files);
        let first = self.client()?;
        if files.is_empty() {
            return Ok(first);
        }
        let (client, exchange) = exchangeable(first);
        let (connection, end) = (self.clone(), parts.shutdown());
        parts.spawn("client certificate", async move {
            let take = || match connection.client() {
                Ok(new) => {
                    exchange.replace(new);
                    tracing::info!("the client certificate was renewed");
                }
                // One of two files may have been written so far: the other one's change is heard as well.
                Err(error) => {
                    tracing::warn!(error = %format!("{error:#}"), "the new client certificate cannot be used");
                }
            };
            end.run_until_cancelled(follow(&files, seen, take)).await;
            Ok::<(), Infallible>(())
        });
        Ok(client)
    }
}

/// What is in the files; None of one that cannot be read.
fn contents(files: &[PathBuf]) -> Vec<Option<Vec<u8>>> {
    files.iter().map(|file| std::fs::read(file).ok()).collect()
}

/// Calls `take` whenever the files hold something else than before; they may be links, which are put elsewhere.
async fn follow(files: &[PathBuf], mut seen: Vec<Option<Vec<u8>>>, take: impl Fn()) {
    loop {
        // First watched, then read: what comes between the two is heard.
        let watch = watch(files);
        let now = contents(files);
        if now != seen {
            seen = now;
            if seen.iter().all(Option::is_some) {
                take();
            }
        }
        let changed = async { watch?.changed().await };
        if let Err(error) = changed.await {
            tracing::debug!(%error, "the client certificate's directory cannot be watched");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn watch(files: &[PathBuf]) -> std::io::Result<DirectoryWatch> {
    let resolved = files.iter().filter_map(|file| std::fs::canonicalize(file).ok());
    let all: Vec<PathBuf> = files.iter().cloned().chain(resolved).collect();
    let directories: BTreeSet<&Path> = all.iter().filter_map(|file| file.parent()).collect();
    let mut directories = directories.into_iter();
    let first = directories.next().ok_or(std::io::ErrorKind::NotFound)?;
    let watch = DirectoryWatch::new(first)?;
    directories.try_for_each(|directory| watch.add(directory))?;
    Ok(watch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_files() {
        let identity = |fields: serde_json::Value| serde_json::from_value::<AuthInfo>(fields).unwrap();
        let both = identity(serde_json::json!({"client-certificate": "/c", "client-key": "/k"}));
        assert_eq!(files(&both), [Path::new("/c"), Path::new("/k")]);
        let data = identity(serde_json::json!({
            "client-certificate": "/c", "client-certificate-data": "eA==", "client-key-data": "eA==",
        }));
        assert_eq!(files(&data), [] as [&Path; 0]);
    }

    #[tokio::test]
    async fn new_contents_are_taken() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("pki")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(at("pki").join(name), text).unwrap();
        let link = |to: &str| {
            std::os::unix::fs::symlink(at("pki").join(to), at("new")).unwrap();
            std::fs::rename(at("new"), at("current.pem")).unwrap();
        };
        write("1.pem", "one");
        write("2.pem", "two");
        link("1.pem");
        let files = [at("current.pem")];
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let seen = contents(&files);
        let kept = files.clone();
        let take = move || tell.send(contents(&kept)).unwrap();
        let following = tokio::spawn(async move { follow(&files, seen, take).await });
        let mut next = async || {
            let limit = std::time::Duration::from_secs(20);
            let found = tokio::time::timeout(limit, told.recv()).await.expect("it is heard").unwrap();
            String::from_utf8(found[0].clone().unwrap()).unwrap()
        };
        link("2.pem");
        assert_eq!(next().await, "two");
        // Written over in place, in the directory that the link leads to; and nothing was told twice.
        std::fs::write(at("pki/3.pem"), "three").unwrap();
        std::fs::rename(at("pki/3.pem"), at("pki/2.pem")).unwrap();
        assert_eq!(next().await, "three");
        following.abort();
    }
}
