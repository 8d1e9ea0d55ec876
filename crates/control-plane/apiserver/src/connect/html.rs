//! Links in proxied pages: what refers to the target's own paths is made to lead through the proxy again.
//!
//! Source of the behaviour: upstream's `apimachinery/pkg/util/proxy` at v1.36. Everything but the values of attributes
//! that hold a URL is passed on byte for byte. Pure.

/// Attributes that hold a URL, by element.
const URL_ATTRIBUTES: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is text, whatever it looks like.
const RAW_TEXT: &[&str] = &["script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"];

/// Where a page came from and how it is reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'p> {
    /// The proxy's path up to where the target's begins, without a slash at its end.
    pub(super) prefix: &'p str,
    /// The names the target itself goes by: its address, and the host the client asked.
    pub(super) hosts: [&'p str; 2],
}

impl Place<'_> {
    /// The URL through the proxy; `None` for one of another host, and for one that is relative or leads there already.
    pub(super) fn rewrite(&self, url: &str) -> Option<String> {
        let (host, path) = split(url);
        if host.is_some_and(|host| !self.hosts.contains(&host)) || !path.starts_with('/') {
            return None;
        }
        if path.starts_with(self.prefix) {
            return None;
        }
        Some(format!("{}{path}", self.prefix))
    }
}

/// The host of a URL if it names one, and the rest. A URL of a scheme without hosts (`mailto:`) is all rest.
pub(super) fn split(url: &str) -> (Option<&str>, &str) {
    let after = match url.strip_prefix("//") {
        Some(after) => Some(after),
        None => url.split_once("://").filter(|(scheme, _)| is_scheme(scheme)).map(|(_, after)| after),
    };
    match after {
        Some(after) => {
            let end = after.find(['/', '?', '#']).unwrap_or(after.len());
            (Some(&after[..end]), &after[end..])
        }
        None => (None, url),
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// The page with its links rewritten.
pub(super) fn rewrite(page: &str, place: Place<'_>) -> String {
    let mut out = String::with_capacity(page.len() + page.len() / 8);
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with("<!--") {
            let end = rest.find("-->").map_or(rest.len(), |end| end + 3);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else if rest[1..].starts_with(|c: char| c.is_ascii_alphabetic()) {
            rest = tag(rest, place, &mut out);
        } else {
            out.push('<');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

/// Copies one start tag (and the content of an element of raw text) and returns what comes behind it.
fn tag<'t>(text: &'t str, place: Place<'_>, out: &mut String) -> &'t str {
    let name_end =
        text[1..].find(|c: char| c.is_whitespace() || c == '/' || c == '>').map_or(text.len(), |end| end + 1);
    let name = text[1..name_end].to_ascii_lowercase();
    let wanted =
        URL_ATTRIBUTES.iter().find(|(element, _)| *element == name).map_or(&[][..], |(_, list)| list);
    out.push_str(&text[..name_end]);
    let mut rest = &text[name_end..];
    loop {
        let start = rest.find(|c: char| !c.is_whitespace() && c != '/').unwrap_or(rest.len());
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        if rest.is_empty() {
            return rest;
        }
        if let Some(behind) = rest.strip_prefix('>') {
            out.push('>');
            return if RAW_TEXT.contains(&name.as_str()) { raw_text(behind, &name, out) } else { behind };
        }
        rest = attribute(rest, wanted, place, out);
    }
}

/// Copies one attribute.
fn attribute<'t>(text: &'t str, wanted: &[&str], place: Place<'_>, out: &mut String) -> &'t str {
    // A first character that cannot be in a name is part of one all the same, as browsers have it.
    let first = text.chars().next().map_or(0, char::len_utf8);
    let end = text[first..]
        .find(|c: char| c.is_whitespace() || matches!(c, '/' | '>' | '='))
        .map_or(text.len(), |end| first + end);
    let (name, behind) = text.split_at(end);
    out.push_str(name);
    let Some(value) = behind.trim_start().strip_prefix('=') else { return behind };
    let value = value.trim_start();
    out.push_str(&behind[..behind.len() - value.len()]);
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let (content, behind) = match quote {
        Some(quote) => match value[1..].find(quote) {
            Some(end) => (&value[1..=end], &value[end + 2..]),
            None => (&value[1..], ""),
        },
        None => value.split_at(value.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(value.len())),
    };
    let known = wanted.iter().any(|one| name.eq_ignore_ascii_case(one));
    let rewritten = if known { place.rewrite(content) } else { None };
    out.extend(quote);
    out.push_str(rewritten.as_deref().unwrap_or(content));
    // A value whose quote never closes has none to copy.
    out.extend(quote.filter(|_| value.len() > content.len() + 1));
    behind
}

/// Copies up to the end tag of an element of raw text.
fn raw_text<'t>(text: &'t str, name: &str, out: &mut String) -> &'t str {
    let closes =
        |at: usize| text[at + 2..].get(..name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name));
    let end = text.match_indices("</").map(|(at, _)| at).find(|at| closes(*at)).unwrap_or(text.len());
    out.push_str(&text[..end]);
    &text[end..]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'static> =
        Place { prefix: "/api/v1/namespaces/proxy/pods/p/proxy", hosts: ["10.0.0.1:80", "localhost:8001"] };

    #[track_caller]
    fn check(page: &str, expected: &str) {
        assert_eq!(rewrite(page, PLACE), expected.replace('~', PLACE.prefix));
    }

    #[test]
    fn links_to_the_target_lead_through_the_proxy() {
        check(r#"<a href="/x">t</a>"#, r#"<a href="~/x">t</a>"#);
        check(
            "<IMG class=a SRC=/i.png><form action='/go?q=1#f'/>",
            "<IMG class=a SRC=~/i.png><form action='~/go?q=1#f'/>",
        );
        check(r#"<a  href = "http://10.0.0.1:80/x" >"#, r#"<a  href = "~/x" >"#);
        check(r#"<link href="//localhost:8001/s.css">"#, r#"<link href="~/s.css">"#);
    }

    #[test]
    fn everything_else_is_passed_on_as_it_is() {
        for page in [
            r#"<a href="x">"#,
            r#"<a href="http://example.com/x">"#,
            r#"<a href="mailto:/x">"#,
            r#"<a href="/api/v1/namespaces/proxy/pods/p/proxy/x">"#,
            r#"<a title="/x"><p href="/x">"#,
            r#"<!-- <a href="/x"> --> 1 < 2 <> </a href="/x">"#,
            r#"<script>s = '<a href="/x">'</script>"#,
            "<a href",
            "<a href=",
            "<a href=\"/x",
            "<a \u{e9}=\"/x\" =\"/x\">\u{e9}<",
            "<",
            "",
        ] {
            let expected = if page == "<a href=\"/x" {
                format!("<a href=\"{}/x", PLACE.prefix)
            } else {
                page.to_owned()
            };
            assert_eq!(rewrite(page, PLACE), expected, "{page}");
        }
    }
}
