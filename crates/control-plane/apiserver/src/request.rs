//! What a request asks for: one table-driven parser from method, path and query to a [`RequestInfo`].
//!
//! Authorisation, routing, metrics and audit all read this one answer, so they can never disagree about a request.
//! Scope (cluster or namespace) is decided here from the shape of the path, never from a body.

use std::borrow::Cow;

use http::Method;

/// The parsed address of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path addresses an API resource (else it is a non-resource path such as `/healthz`).
    pub is_resource: bool,
    /// The path as sent, decoded segments not applied.
    pub path: String,
    /// The verb in lower case: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or the
    /// HTTP method in lower case for non-resource paths.
    pub verb: &'static str,
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Plural resource name.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Object name, or empty.
    pub name: String,
    /// What follows a `proxy` subresource, with its leading slash, or empty.
    pub rest: String,
}

/// Subresources below which any path may follow.
const OPEN_ENDED: &[&str] = &["proxy"];

/// Namespace subresources, so that `/api/v1/namespaces/x/status` is not taken for resource `status` in namespace `x`.
const NAMESPACE_SUBRESOURCES: &[&str] = &["status", "finalize"];

/// Parses a request's address. `query` is the raw query string.
///
/// Source: upstream `apiserver/pkg/endpoints/request/requestinfo.go` for the meaning of paths; unlike it, empty and
/// dot segments make a path a non-resource one here, so they can only end in 404.
pub fn parse(method: &Method, path: &str, query: &str) -> RequestInfo {
    let mut info = RequestInfo { path: path.to_owned(), verb: method_verb(method), ..RequestInfo::default() };
    let Some(segments) = segments(path) else { return info };
    let parts: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let tail = match parts.as_slice() {
        ["api", version, tail @ ..] if !tail.is_empty() => {
            info.version = (*version).to_owned();
            tail
        }
        ["apis", group, version, tail @ ..] if !tail.is_empty() => {
            info.group = (*group).to_owned();
            info.version = (*version).to_owned();
            tail
        }
        _ => return info,
    };
    info.is_resource = true;
    // The ancient `/watch/` prefix is still served.
    let (watch_prefix, tail) = match tail {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        _ => (false, tail),
    };
    let (namespace, tail) = match tail {
        ["namespaces", namespace, resource, ..] if !NAMESPACE_SUBRESOURCES.contains(resource) => {
            (*namespace, &tail[2..])
        }
        // The namespace is also the scope its own rules apply in.
        ["namespaces", namespace, ..] => (*namespace, tail),
        _ => ("", tail),
    };
    info.namespace = namespace.to_owned();
    info.resource = tail.first().copied().unwrap_or_default().to_owned();
    info.name = tail.get(1).copied().unwrap_or_default().to_owned();
    info.subresource = tail.get(2).copied().unwrap_or_default().to_owned();
    if tail.len() > 3 {
        if OPEN_ENDED.contains(&info.subresource.as_str()) {
            info.rest = rest_of(path, segments.len() - (tail.len() - 3));
        } else {
            // Deeper paths address nothing; routing answers 404.
            info.subresource = tail[2..].join("/");
        }
    } else if OPEN_ENDED.contains(&info.subresource.as_str()) && path.ends_with('/') {
        info.rest = "/".to_owned();
    }
    info.verb = resource_verb(method, &mut info, watch_prefix, query);
    info
}

/// Splits a path in percent-decoded segments; `None` when it has an empty, `.` or `..` segment inside or an encoded
/// slash, none of which a resource path has.
fn segments(path: &str) -> Option<Vec<Cow<'_, str>>> {
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    if trimmed.is_empty() {
        return None;
    }
    let mut open_ended = false;
    let mut out: Vec<Cow<'_, str>> = Vec::with_capacity(8);
    for raw in trimmed.split('/') {
        let decoded = if raw.contains('%') { Cow::Owned(percent_decode(raw)?) } else { Cow::Borrowed(raw) };
        if !open_ended
            && (decoded.is_empty() || decoded == "." || decoded == ".." || decoded.contains(['/', '\0']))
        {
            return None;
        }
        // Only behind `.../proxy/` is the path someone else's.
        open_ended |= decoded == "proxy" && out.len() >= 4;
        out.push(decoded);
    }
    Some(out)
}

/// The undecoded path from segment `index` on, with a leading slash.
fn rest_of(path: &str, index: usize) -> String {
    let mut at = 0;
    for _ in 0..=index {
        match path[at..].find('/') {
            Some(next) => at += next + 1,
            None => return String::new(),
        }
    }
    format!("/{}", &path[at..])
}

/// Decodes `%xx`; `None` if an escape is malformed or the result is not UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push(u8::try_from(high * 16 + low).expect("two hex digits fit a byte"));
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

fn method_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "other",
    }
}

fn resource_verb(method: &Method, info: &mut RequestInfo, watch_prefix: bool, query: &str) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if info.name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        Method::GET | Method::HEAD => {
            if watch_prefix {
                return "watch";
            }
            if !info.name.is_empty() {
                return "get";
            }
            let options = Query::parse(query);
            // A list or watch of one name is authorised as that name.
            if let Some(name) = options.first("fieldSelector").and_then(single_name) {
                info.name = name;
            }
            if options.truthy("watch") { "watch" } else { "list" }
        }
        // It has no verb; only who may do everything may ask, and only a proxied service answers.
        Method::OPTIONS => "",
        _ => "other",
    }
}

/// The name in a `metadata.name=x` field selector, when that requirement is in it.
fn single_name(selector: &str) -> Option<String> {
    selector.split(',').find_map(|term| {
        let value = term.strip_prefix("metadata.name=")?;
        let value = value.strip_prefix('=').unwrap_or(value);
        let usable = !value.is_empty() && !value.contains(['\\', '/', '%']);
        usable.then(|| value.to_owned())
    })
}

/// A decoded query string, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a raw query. Pairs that are not valid escapes are left out, as upstream does.
    pub fn parse(raw: &str) -> Query {
        let decode = |text: &str| percent_decode(&text.replace('+', " "));
        let pairs = raw.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(key)?, decode(value)?))
        });
        Query(pairs.collect())
    }

    /// The first value of `key`.
    pub fn first(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// All values of `key`.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Whether `key` is present.
    pub fn has(&self, key: &str) -> bool {
        self.first(key).is_some()
    }

    /// A boolean as upstream's query decoding reads it: absent, `0` and `false` are false, all else is true.
    pub fn truthy(&self, key: &str) -> bool {
        self.first(key).is_some_and(|value| !matches!(value.to_ascii_lowercase().as_str(), "0" | "false"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &Method, uri: &str, expected: &str) {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let i = parse(method, path, query);
        let found = format!(
            "{} {} g={} v={} ns={} r={} sub={} n={} rest={}",
            if i.is_resource { "res" } else { "non" },
            i.verb,
            i.group,
            i.version,
            i.namespace,
            i.resource,
            i.subresource,
            i.name,
            i.rest
        );
        assert_eq!(found, expected, "{method} {uri}");
    }

    #[test]
    fn paths_of_every_shape() {
        check(&Method::GET, "/api/v1/namespaces/a/pods/b", "res get g= v=v1 ns=a r=pods sub= n=b rest=");
        check(&Method::GET, "/api/v1/pods", "res list g= v=v1 ns= r=pods sub= n= rest=");
        check(&Method::GET, "/api/v1/pods?watch=1", "res watch g= v=v1 ns= r=pods sub= n= rest=");
        check(&Method::GET, "/api/v1/pods?watch=false", "res list g= v=v1 ns= r=pods sub= n= rest=");
        check(
            &Method::GET,
            "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Db&watch=true",
            "res watch g= v=v1 ns=a r=pods sub= n=b rest=",
        );
        check(
            &Method::DELETE,
            "/apis/apps/v1/namespaces/a/deployments",
            "res deletecollection g=apps v=v1 ns=a r=deployments sub= n= rest=",
        );
        check(
            &Method::PUT,
            "/apis/apps/v1/namespaces/a/deployments/d/scale",
            "res update g=apps v=v1 ns=a r=deployments sub=scale n=d rest=",
        );
        check(&Method::GET, "/api/v1/namespaces/a", "res get g= v=v1 ns=a r=namespaces sub= n=a rest=");
        check(&Method::GET, "/api/v1/namespaces", "res list g= v=v1 ns= r=namespaces sub= n= rest=");
        check(
            &Method::PUT,
            "/api/v1/namespaces/a/finalize",
            "res update g= v=v1 ns=a r=namespaces sub=finalize n=a rest=",
        );
        check(
            &Method::GET,
            "/api/v1/namespaces/a/services/http:s:80/proxy/x/../%2fy",
            "res get g= v=v1 ns=a r=services sub=proxy n=http:s:80 rest=/x/../%2fy",
        );
        check(&Method::POST, "/api/v1/nodes/n/proxy/", "res create g= v=v1 ns= r=nodes sub=proxy n=n rest=/");
        check(&Method::GET, "/api/v1/watch/pods", "res watch g= v=v1 ns= r=pods sub= n= rest=");
        check(&Method::GET, "/api/v1", "non get g= v= ns= r= sub= n= rest=");
        check(&Method::GET, "/apis/apps/v1/", "non get g= v= ns= r= sub= n= rest=");
        check(&Method::GET, "/healthz", "non get g= v= ns= r= sub= n= rest=");
    }

    #[test]
    fn traversal_never_becomes_a_resource() {
        for path in [
            "/api/v1/namespaces/a/../b/pods/c",
            "/api/v1/namespaces/a/pods/%2e%2e",
            "/api/v1/namespaces/a%2fb/pods/c",
            "/api/v1//pods",
            "/api/v1/namespaces/a/pods/b%00",
        ] {
            assert!(!parse(&Method::GET, path, "").is_resource, "{path}");
        }
    }

    #[test]
    fn queries_decode() {
        let query = Query::parse("a=1&b=x%20y+z&a=2&flag");
        assert_eq!(query.first("a"), Some("1"));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(query.first("b"), Some("x y z"));
        assert!(query.truthy("flag"));
    }
}
