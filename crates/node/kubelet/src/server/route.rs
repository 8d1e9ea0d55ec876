//! Which path means what. Pure; paths are taken as they are, without decoding.

use http::Method;
use podium_api::zpages::{FLAGZ, STATUSZ};

/// A container as stream paths name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
    pub(crate) uid: Option<&'a str>,
    pub(crate) container: &'a str,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// The health check that is named, or all.
    Healthz(&'a str),
    Pods,
    RunningPods,
    Configz,
    Metrics,
    ResourceMetrics,
    CadvisorMetrics,
    ProbeMetrics,
    HealthMetrics,
    Summary,
    /// The page of that path.
    Page(&'a str),
    Logs {
        namespace: &'a str,
        pod: &'a str,
        container: &'a str,
    },
    /// What follows `/logs/`, with its escapes.
    SystemLogs(&'a str),
    Run(Target<'a>),
    Exec(Target<'a>),
    Attach(Target<'a>),
    PortForward {
        namespace: &'a str,
        pod: &'a str,
        uid: Option<&'a str>,
    },
}

impl<'a> Route<'a> {
    /// The route of a path.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        let segments: Vec<&str> = path.strip_suffix('/').unwrap_or(path).split('/').collect();
        if segments.iter().any(|segment| segment.is_empty() || matches!(*segment, "." | "..")) {
            return None;
        }
        Some(match *segments.as_slice() {
            ["healthz"] => Self::Healthz(""),
            ["healthz", check @ ("ping" | "log" | "syncloop")] => Self::Healthz(check),
            ["pods"] => Self::Pods,
            ["runningpods"] => Self::RunningPods,
            ["configz"] => Self::Configz,
            ["metrics"] => Self::Metrics,
            ["metrics", "resource"] => Self::ResourceMetrics,
            ["metrics", "cadvisor"] => Self::CadvisorMetrics,
            ["metrics", "probes"] => Self::ProbeMetrics,
            ["metrics", "slis"] => Self::HealthMetrics,
            ["statusz"] => Self::Page(STATUSZ),
            ["flagz"] => Self::Page(FLAGZ),
            ["stats", "summary"] => Self::Summary,
            ["containerLogs", namespace, pod, container] => Self::Logs { namespace, pod, container },
            ["logs", ..] => Self::SystemLogs(path.strip_prefix("logs/")?),
            ["run", ref rest @ ..] => Self::Run(Target::of(rest)?),
            ["exec", ref rest @ ..] => Self::Exec(Target::of(rest)?),
            ["attach", ref rest @ ..] => Self::Attach(Target::of(rest)?),
            ["portForward", namespace, pod] => Self::PortForward { namespace, pod, uid: None },
            ["portForward", namespace, pod, uid] => Self::PortForward { namespace, pod, uid: Some(uid) },
            _ => return None,
        })
    }

    /// The methods that mean something here, as the `Allow` header lists them.
    pub(crate) fn allowed(&self) -> &'static str {
        match self {
            Self::Run(_) => "POST",
            Self::Exec(_) | Self::Attach(_) | Self::PortForward { .. } => "GET, POST",
            _ => "GET",
        }
    }

    /// Whether this method does.
    pub(crate) fn allows(&self, method: &Method) -> bool {
        self.allowed().split(", ").any(|allowed| allowed == method.as_str())
    }
}

impl<'a> Target<'a> {
    fn of(rest: &[&'a str]) -> Option<Self> {
        match *rest {
            [namespace, pod, container] => Some(Self { namespace, pod, uid: None, container }),
            [namespace, pod, uid, container] => Some(Self { namespace, pod, uid: Some(uid), container }),
            _ => None,
        }
    }
}

/// The subresources of the node that a path is authorised as; one of them is enough. Source: upstream's
/// kubelet authorisation, with fine-grained subresources.
pub(crate) fn subresources(path: &str) -> &'static [&'static str] {
    let root = path.strip_prefix('/').unwrap_or(path).split('/').next().unwrap_or_default();
    match root {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "statusz" => &["statusz"],
        "flagz" => &["configz"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

/// The verb that a method is authorised as; empty for those that have none.
pub(crate) fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "GET" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let target = |uid| Target { namespace: "n", pod: "p", uid, container: "c" };
        for (path, want) in [
            ("/healthz", Some(Route::Healthz(""))),
            ("/healthz/syncloop", Some(Route::Healthz("syncloop"))),
            ("/healthz/other", None),
            ("/metrics/slis", Some(Route::HealthMetrics)),
            ("/runningpods/", Some(Route::RunningPods)),
            ("/pods", Some(Route::Pods)),
            ("/metrics/resource", Some(Route::ResourceMetrics)),
            ("/metrics/probes", Some(Route::ProbeMetrics)),
            ("/stats/summary", Some(Route::Summary)),
            ("/statusz", Some(Route::Page("/statusz"))),
            ("/flagz/", Some(Route::Page("/flagz"))),
            ("/flagz/x", None),
            ("/containerLogs/n/p/c", Some(Route::Logs { namespace: "n", pod: "p", container: "c" })),
            ("/exec/n/p/c", Some(Route::Exec(target(None)))),
            ("/exec/n/p/u/c", Some(Route::Exec(target(Some("u"))))),
            ("/attach/n/p/c", Some(Route::Attach(target(None)))),
            ("/run/n/p/u/c", Some(Route::Run(target(Some("u"))))),
            ("/portForward/n/p", Some(Route::PortForward { namespace: "n", pod: "p", uid: None })),
            ("/portForward/n/p/u", Some(Route::PortForward { namespace: "n", pod: "p", uid: Some("u") })),
            ("/", None),
            ("", None),
            ("/exec/n/p", None),
            ("/exec//p/c", None),
            ("/exec/n/../c", None),
            ("/metrics/../exec/n/p/c", None),
            ("//pods", None),
            ("/logs", None),
            ("/logs/", Some(Route::SystemLogs(""))),
            ("/logs/messages", Some(Route::SystemLogs("messages"))),
            ("/logs/pods/", Some(Route::SystemLogs("pods/"))),
            ("/logs/../pods", None),
            ("/logs//etc/passwd", None),
            ("/debug/pprof/profile", None),
            ("/debug/flags/v", None),
            ("/checkpoint/n/p/c", None),
        ] {
            assert_eq!(Route::of(path), want, "{path}");
        }
    }

    #[test]
    fn methods() {
        let exec = Route::of("/exec/n/p/c").unwrap();
        assert!(exec.allows(&Method::POST) && exec.allows(&Method::GET) && !exec.allows(&Method::PUT));
        let run = Route::of("/run/n/p/c").unwrap();
        assert!(run.allows(&Method::POST) && !run.allows(&Method::GET));
        assert!(!Route::Pods.allows(&Method::POST));
    }

    #[test]
    fn authorised_as() {
        for (path, want) in [
            ("/stats/summary", &["stats"][..]),
            ("/metrics", &["metrics"]),
            ("/metrics/cadvisor", &["metrics"]),
            ("/metrics/slis", &["metrics"]),
            ("/metricsx", &["proxy"]),
            ("/logs/x", &["log"]),
            ("/statusz", &["statusz"]),
            ("/flagz", &["configz"]),
            ("/containerLogs/n/p/c", &["proxy"]),
            ("/exec/n/p/c", &["proxy"]),
            ("/pods", &["pods", "proxy"]),
            ("/runningpods/", &["pods", "proxy"]),
            ("/healthz", &["healthz", "proxy"]),
            ("/configz", &["configz", "proxy"]),
            ("//stats", &["proxy"]),
            ("/unknown", &["proxy"]),
        ] {
            assert_eq!(subresources(path), want, "{path}");
        }
        assert_eq!(verb(&Method::POST), "create");
        assert_eq!(verb(&Method::HEAD), "");
    }
}
