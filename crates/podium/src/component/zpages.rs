//! The pages `/statusz` and `/flagz` of a component at its own port.

use std::collections::BTreeMap;
use std::ffi::OsString;

use bytes::Bytes;
use clap::{Args, Command};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use podium_api::zpages::{Asked, Pages, wants_pretty};
use podium_apiserver::request::Query;

/// What is at the port of a component beside the page about itself.
const PATHS: [&str; 5] = ["/flagz", "/healthz", "/livez", "/metrics", "/readyz"];

/// The pages of this process as a component with these flags, which begins now.
pub(crate) fn pages<F: Args>(name: &'static str) -> Pages {
    Pages {
        name,
        started: Timestamp::now(),
        flags: flags::<F>(std::env::args_os().skip(1)),
        paths: PATHS.map(str::to_owned).into(),
    }
}

/// The flags that have a value, given or by default. `words`: the command line, beginning with the subcommand. None of the
/// flags is a secret: keys and tokens are files.
pub(super) fn flags<F: Args>(words: impl IntoIterator<Item = OsString>) -> BTreeMap<String, String> {
    let command = F::augment_args(Command::new("component"));
    // A command line that cannot be read has ended the program before.
    let Ok(matches) = command.clone().try_get_matches_from(words) else { return BTreeMap::new() };
    let shown = |flag: &clap::Arg| {
        let values = matches.try_get_raw(flag.get_id().as_str()).ok().flatten()?;
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        // As the flags' library of upstream prints lists.
        let is_list = flag.get_value_delimiter().is_some();
        let text = if is_list { format!("[{}]", values.join(",")) } else { values.last()?.to_string() };
        Some((flag.get_long()?.to_owned(), text))
    };
    command.get_arguments().filter_map(shown).collect()
}

/// The answer to a request for one of the pages.
pub(super) fn page<B>(pages: &Pages, request: &Request<B>) -> Option<Response<Full<Bytes>>> {
    let header = |name: HeaderName| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let asked = Asked {
        accept: header(ACCEPT),
        pretty: wants_pretty(query.first("pretty"), header(USER_AGENT)),
        now: Timestamp::now(),
        pick: fastrand::usize(..),
    };
    let answer = pages.at(request.uri().path(), asked)?;
    let mut reply = Response::new(Full::from(answer.body));
    *reply.status_mut() = StatusCode::from_u16(answer.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    if let Some(warning) = answer.warning {
        reply.headers_mut().insert("warning", HeaderValue::from_static(warning));
    }
    Some(reply)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::component::{controller_manager, kubelet, scheduler};

    fn words(line: &str) -> impl Iterator<Item = OsString> {
        line.split(' ').map(OsString::from)
    }

    #[test]
    fn flags_are_shown_by_what_was_given_and_by_default() {
        let shown = flags::<scheduler::Flags>(words("scheduler --kubeconfig=/k --leader-elect=false"));
        for (name, value) in [
            ("kubeconfig", Some("/k")),
            ("leader-elect", Some("false")),
            ("leader-elect-lease-duration", Some("15s")),
            ("secure-port", Some("10259")),
            ("authorization-always-allow-paths", Some("[/healthz,/readyz,/livez]")),
            ("tls-cert-file", None),
        ] {
            assert_eq!(shown.get(name).map(String::as_str), value, "{name}");
        }
        let line =
            "controller-manager --kubeconfig=/k --controllers=*,-job-controller --contention-profiling=false";
        let shown = flags::<controller_manager::Flags>(words(line));
        assert_eq!(shown["controllers"], "[*,-job-controller]");
        assert_eq!(shown["contention-profiling"], "false", "also what has nothing to act on");
        let shown = flags::<kubelet::Flags>(words("kubelet --kubeconfig=/k --root-dir=/r"));
        assert_eq!((shown["root-dir"].as_str(), shown["maximum-dead-containers"].as_str()), ("/r", "-1"));
    }

    #[tokio::test]
    async fn the_page_is_as_the_request_wants_it() {
        let pages =
            Pages { flags: [("a".to_owned(), "b".to_owned())].into(), ..pages::<scheduler::Flags>("c") };
        let ask = |path: &str, accept: &'static str| {
            let request = Request::get(path).header(ACCEPT, accept).body(()).unwrap();
            page(&pages, &request)
        };
        let reply =
            ask("/flagz?pretty=true", "application/json;as=Flagz;v=v1alpha1;g=config.k8s.io").unwrap();
        assert!(reply.headers()["warning"].to_str().unwrap().contains("flagz endpoint is deprecated"));
        assert_eq!(reply.headers()[CONTENT_TYPE], "application/json;g=config.k8s.io;v=v1alpha1;as=Flagz");
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        assert!(
            std::str::from_utf8(&body).unwrap().contains("\n  \"flags\": {\n    \"a\": \"b\""),
            "{body:?}"
        );
        assert_eq!(ask("/statusz", "text/plain").unwrap().status(), 200);
        assert_eq!(ask("/statusz", "text/html").unwrap().status(), 406);
        assert!(ask("/metrics", "").is_none());
    }
}
