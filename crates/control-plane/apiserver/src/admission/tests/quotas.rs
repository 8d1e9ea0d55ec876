//! Quotas: exact under races, and counting what upstream counts.

use super::*;

/// A store of one quota that loses a race now and then.
struct Racing {
    memory: Arc<Memory>,
    lock: parking_lot::Mutex<u32>,
}

impl QuotaStore for Racing {
    fn swap<'a>(
        &'a self,
        mut updated: Value,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<bool, ApiError>> + Send + 'a>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut version = self.lock.lock();
            let (namespace, name) = (text(&updated, "/metadata/namespace"), text(&updated, "/metadata/name"));
            let stored = self.memory.get("", "resourcequotas", namespace, name).unwrap();
            if stored["metadata"]["resourceVersion"] != updated["metadata"]["resourceVersion"] {
                return Ok(false);
            }
            *version += 1;
            updated["metadata"]["resourceVersion"] = json!(version.to_string());
            self.memory.put("", "resourcequotas", updated);
            Ok(true)
        })
    }
}

#[allow(clippy::needless_pass_by_value, reason = "reads better at the call")]
fn quota(hard: Value, spec: Value) -> Value {
    let mut quota =
        json!({"metadata": {"namespace": "ns", "name": "q", "resourceVersion": "0"}, "spec": spec});
    quota["spec"]["hard"] = hard;
    quota
}

async fn charge(world: &World, store: &Racing, resource: &str, mut object: Value) -> Result<(), ApiError> {
    let user = User::new("jane", &[]);
    let request = creation(&user, resource, &mut object);
    world.admission.charge(&request, store).await
}

#[tokio::test]
async fn a_quota_is_exact_under_concurrency() {
    let world = World::new();
    world.memory.put("", "resourcequotas", quota(json!({"pods": "20"}), json!({})));
    let store = Racing { memory: Arc::clone(&world.memory), lock: parking_lot::Mutex::new(0) };
    let all = futures::future::join_all((0..50).map(|_| charge(&world, &store, "pods", pod()))).await;
    assert_eq!(all.iter().filter(|result| result.is_ok()).count(), 20);
    let stored = world.memory.get("", "resourcequotas", "ns", "q").unwrap();
    assert_eq!(stored["status"]["used"], json!({"pods": "20"}));
    let refused = all.into_iter().find_map(Result::err).unwrap();
    assert_eq!(
        refused.message,
        "pods \"p\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=20, limited: pods=20"
    );
}

#[tokio::test]
async fn quotas_count_what_upstreams_count() {
    let world = World::new();
    let mut known = pod();
    known["metadata"]["namespace"] = json!("ns");
    known["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1500m"}});
    world.memory.put("", "pods", known);
    world.memory.put("", "resourcequotas", quota(json!({"requests.cpu": "2", "count/pods": "9"}), json!({})));
    let store = Racing { memory: Arc::clone(&world.memory), lock: parking_lot::Mutex::new(0) };
    let error = charge(&world, &store, "pods", pod()).await.unwrap_err();
    assert_eq!(error.message, "pods \"p\" is forbidden: failed quota: q: must specify requests.cpu for: c");
    let mut asking = pod();
    asking["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "500m"}});
    charge(&world, &store, "pods", asking.clone()).await.unwrap();
    let stored = world.memory.get("", "resourcequotas", "ns", "q").unwrap();
    assert_eq!(
        stored["status"]["used"],
        json!({"requests.cpu": "2", "count/pods": "2"}),
        "what was there counts"
    );
    let error = charge(&world, &store, "pods", asking).await.unwrap_err();
    assert_eq!(
        error.message,
        "pods \"p\" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=2, limited: \
         requests.cpu=2"
    );
    let scoped = quota(json!({"pods": "0"}), json!({"scopes": ["NotBestEffort"]}));
    world.memory.put("", "resourcequotas", scoped);
    charge(&world, &store, "pods", pod()).await.unwrap();
    world.memory.put("", "resourcequotas", quota(json!({"services.nodeports": "1"}), json!({})));
    let service = |kind: &str| json!({"metadata": {"name": "s"}, "spec": {"type": kind, "ports": [{}, {}]}});
    charge(&world, &store, "services", service("ClusterIP")).await.unwrap();
    let error = charge(&world, &store, "services", service("NodePort")).await.unwrap_err();
    assert_eq!(
        error.message,
        "services \"s\" is forbidden: exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0, \
         limited: services.nodeports=1"
    );
}
