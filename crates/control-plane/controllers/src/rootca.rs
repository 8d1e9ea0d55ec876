//! Publishes the API server's certificate authority as the ConfigMap `kube-root-ca.crt` of every namespace, for pods to
//! trust it. Source of behaviour: `pkg/controller/certificates/rootcacertpublisher`.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
