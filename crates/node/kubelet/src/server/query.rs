//! Query parameters. Pure.

use http::Uri;
use percent_encoding::percent_decode_str;

/// Decoded parameters in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// The parameters of a request.
    pub(crate) fn of(uri: &Uri) -> Self {
        Self::parse(uri.query().unwrap_or_default())
    }

    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// The first value of a parameter.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All its values.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether it is given, with whatever value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// A truth value as API machinery reads one: being there is enough.
    pub(crate) fn truthy(&self, name: &str) -> bool {
        self.first(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// A truth value as the streams' parameters are read.
    pub(crate) fn is_one(&self, name: &str) -> bool {
        self.first(name) == Some("1")
    }
}

/// Undoes percent and plus encoding; what is not valid stays as it is.
fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let query =
            Query::parse("input=1&command=sh&command=-c&command=a%20b%26+c%zz&follow&no=false&&x=%E2%82%AC");
        assert!(query.is_one("input") && !query.is_one("tty"));
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "a b& c%zz"]);
        assert!(query.truthy("follow") && !query.truthy("no") && !query.truthy("none"));
        assert_eq!(query.first("x"), Some("€"));
        assert_eq!(Query::parse(""), Query::default());
    }
}
