//! The health checks of a component, and what `/metrics/slis` counts of them.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use parking_lot::RwLock;
use podium_api::healthz::{self, Check};
use podium_apiserver::request::Query;
use podium_client::metrics::HealthChecks;

use super::healthz::text;

/// Looks, and says what is wrong.
type Look = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// What a component looks after. More may be added while it is asked.
#[derive(Default)]
pub(crate) struct Health {
    checks: RwLock<Vec<Named>>,
    counted: HealthChecks,
}

struct Named {
    name: &'static str,
    endpoints: &'static [&'static str],
    look: Look,
}

impl Health {
    /// Adds a check to these of the endpoints. One that has none is answered with `ping`: that it is answered.
    pub(crate) fn add(
        &self,
        endpoints: &'static [&'static str],
        name: &'static str,
        look: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) {
        self.checks.write().push(Named { name, endpoints, look: Box::new(look) });
    }

    fn look(&self, endpoint: &str) -> Vec<Check> {
        let checks = self.checks.read();
        let here = checks.iter().filter(|check| check.endpoints.contains(&endpoint));
        let found: Vec<Check> = here.map(|check| Check::new(check.name, (check.look)())).collect();
        if found.is_empty() { vec![Check::ping()] } else { found }
    }

    /// What is at a path, if it is one of a health check.
    pub(super) fn page(&self, path: &str, query: &str) -> Option<Response<Full<Bytes>>> {
        let (endpoint, only) = healthz::of_path(path)?;
        let checks = self.look(endpoint);
        for Check { name, fault } in checks.iter().filter(|check| check.fault.is_some()) {
            tracing::warn!(endpoint, name, why = fault.as_deref(), "a health check failed");
        }
        let observe = |name: &str, good| self.counted.observe(endpoint, name, good);
        let query = Query::parse(query);
        let (code, body) = match only {
            "" => healthz::all(endpoint, &checks, query.all("exclude"), query.has("verbose"), observe),
            only => healthz::one(&checks, only)?,
        };
        Some(text(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &body))
    }

    /// Appends what was counted.
    pub(super) fn collect(&self, out: &mut String) {
        self.counted.collect(out);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body_util::BodyExt;

    use super::*;

    async fn get(health: &Health, path: &str, query: &str) -> (u16, String) {
        let Some(reply) = health.page(path, query) else { return (404, String::new()) };
        let code = reply.status().as_u16();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn checks_are_looked_at_where_they_belong_and_counted() {
        let (health, well) = (Health::default(), Arc::new(AtomicBool::new(true)));
        let seen = well.clone();
        health.add(&["healthz", "readyz"], "leaderElection", move || {
            (!seen.load(Ordering::Relaxed)).then(|| "failed".to_owned())
        });
        assert_eq!(get(&health, "/healthz", "").await, (200, "ok".to_owned()));
        health.add(&["healthz"], "job-controller", || None);
        let all = "[+]leaderElection ok\n[+]job-controller ok\nhealthz check passed\n";
        assert_eq!(get(&health, "/healthz", "verbose").await, (200, all.to_owned()));
        assert_eq!(
            get(&health, "/livez", "verbose=1").await,
            (200, "[+]ping ok\nlivez check passed\n".to_owned())
        );
        well.store(false, Ordering::Relaxed);
        let ill = "[-]leaderElection failed: reason withheld\nreadyz check failed\n".to_owned();
        assert_eq!(get(&health, "/readyz", "").await, (500, ill));
        assert_eq!(get(&health, "/healthz", "exclude=leader%45lection").await, (200, "ok".to_owned()));
        let alone = "internal server error: failed\n".to_owned();
        assert_eq!(get(&health, "/healthz/leaderElection", "").await, (500, alone));
        assert_eq!(get(&health, "/livez/leaderElection", "").await.0, 404);
        assert_eq!(get(&health, "/healthz/job", "").await.0, 404);

        let mut out = String::new();
        health.collect(&mut out);
        let counted: Vec<_> =
            out.lines().filter_map(|line| line.strip_prefix("kubernetes_healthchecks_total")).collect();
        let row = |name: &str, status: &str, endpoint: &str, count: u32| {
            format!("{{name=\"{name}\",status=\"{status}\",type=\"{endpoint}\"}} {count}")
        };
        let mut expected = [
            row("leaderElection", "success", "healthz", 2),
            row("job-controller", "success", "healthz", 2),
            row("ping", "success", "livez", 1),
            row("leaderElection", "error", "readyz", 1),
        ];
        let mut counted = counted;
        counted.sort_unstable();
        expected.sort_unstable();
        assert_eq!(counted, expected);
    }
}
