//! The scale of any resource that has one: found by kind, read and changed through its subresource.

use std::sync::Arc;

use k8s_openapi::api::autoscaling::v1::Scale;
use kube::Client;
use kube::api::{Api, DynamicObject, PostParams};
use parking_lot::Mutex;

use crate::context::words;
use crate::discovery::{Served, discover, is_path_missing};

/// Reads and writes scales under one identity.
pub(crate) struct Scales {
    client: Client,
    /// What was served when it was last asked; asked again for a kind that is not among it, or no longer served there.
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
        self.api(of, namespace).get_scale(name).await.inspect_err(|error| self.heard(error))
    }

    /// Forgets what was served if it is no longer.
    fn heard(&self, error: &kube::Error) {
        if is_path_missing(error) {
            *self.served.lock() = Arc::default();
        }
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

#[tokio::test(start_paused = true)]
async fn a_version_that_is_gone_is_forgotten() {
    use crate::testing::api::FakeApi;
    use podium_client::ClientSource;
    let api = FakeApi::default();
    api.serve("apps", &["v1beta1"]);
    api.create(
        "apps/deployments",
        &serde_json::json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": {"replicas": 3}}),
    );
    let scales = Scales::new(api.client("horizontal-pod-autoscaler"));
    let find = || async { scales.find("apps/v1", "Deployment").await.unwrap() };
    let replicas = |scale: Scale| scale.spec.unwrap().replicas;
    let old = find().await;
    assert_eq!(scales.get(&old, "ns", "web").await.map(replicas).unwrap(), Some(3));
    assert!(scales.get(&old, "ns", "nobody").await.is_err());
    assert_eq!(find().await.path.version, "v1beta1");
    api.serve("apps", &["v1"]);
    assert!(scales.get(&old, "ns", "web").await.is_err());
    let new = find().await;
    assert_eq!(
        (new.path.version.as_str(), scales.get(&new, "ns", "web").await.map(replicas).unwrap()),
        ("v1", Some(3))
    );
}
