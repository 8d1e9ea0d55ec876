//! The scale of any resource that has one: found by kind, read and changed through its subresource.

use std::sync::Arc;

use k8s_openapi::api::autoscaling::v1::Scale;
use kube::Client;
use kube::api::{Api, DynamicObject, PostParams};
use parking_lot::Mutex;

use crate::context::words;
use crate::discovery::{Served, discover};

/// Reads and writes scales under one identity.
pub(crate) struct Scales {
    client: Client,
    /// What was served when it was last asked; asked again for a kind that is not among it.
    served: Mutex<Arc<Vec<Served>>>,
}

impl Scales {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, served: Mutex::default() }
    }

    /// The resource of a kind, in the version that is preferred, whatever version `api_version` names.
    ///
    /// # Errors
    ///
    /// In words, when there is no such kind or nobody can be asked.
    pub(crate) async fn find(&self, api_version: &str, kind: &str) -> Result<Served, String> {
        let group = match api_version.split('/').collect::<Vec<_>>()[..] {
            [_] => "",
            [group, _] => group,
            _ => return Err(format!("unexpected GroupVersion string: {api_version}")),
        };
        let known = Arc::clone(&self.served.lock());
        let of =
            |served: &[Served]| served.iter().find(|it| it.path.group == group && it.kind == kind).cloned();
        if let Some(found) = of(&known) {
            return Ok(found);
        }
        let found = discover(&self.client).await.map_err(|error| words(&error))?;
        let served = Arc::new(found.served);
        *self.served.lock() = Arc::clone(&served);
        of(&served).ok_or_else(|| match group {
            "" => format!("no matches for kind {kind:?} in version {api_version:?}"),
            group => format!("no matches for kind {kind:?} in group {group:?}"),
        })
    }

    fn api(&self, of: &Served, namespace: &str) -> Api<DynamicObject> {
        match of.namespaced {
            true => Api::namespaced_with(self.client.clone(), namespace, &of.api_resource()),
            false => Api::all_with(self.client.clone(), &of.api_resource()),
        }
    }

    /// The scale of one object.
    pub(crate) async fn get(&self, of: &Served, namespace: &str, name: &str) -> Result<Scale, kube::Error> {
        self.api(of, namespace).get_scale(name).await
    }

    /// Sets the scale of one object to that many replicas, whoever else writes to it: what is set does not depend on what was.
    pub(crate) async fn set(
        &self,
        of: &Served,
        namespace: &str,
        name: &str,
        scale: &Scale,
        replicas: i32,
    ) -> Result<(), kube::Error> {
        let api = self.api(of, namespace);
        let mut scale = scale.clone();
        let mut tries = 0;
        loop {
            scale.spec.get_or_insert_default().replicas = Some(replicas);
            match api.replace_scale(name, &PostParams::default(), &scale).await {
                Ok(_) => return Ok(()),
                Err(error) if podium_client::is_conflict(&error) && tries < CONFLICTS => {
                    tries += 1;
                    scale = api.get_scale(name).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// How often a conflict is answered by reading again. Source: client-go's `retry.DefaultRetry`.
const CONFLICTS: u32 = 4;
