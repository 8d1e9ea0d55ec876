//! The `Accept` header: its clauses, in the order in which a server tries them.
//!
//! Source: upstream negotiates with `github.com/munnerz/goautoneg`; the order, and what is no clause at all, are its.

/// One clause of the header.
#[derive(Clone, Debug, PartialEq)]
pub struct Clause<'a> {
    /// Before the slash: `application`, `*`.
    pub main: &'a str,
    /// After the slash: `json`, `*`.
    pub sub: &'a str,
    /// `q`; 1 where the client does not say, 0 where it is no number.
    weight: f64,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Clause<'a>> {
        let (media, rest) = text.split_once(';').unwrap_or((text, ""));
        let (main, sub) = media.split_once('/').unwrap_or((media, ""));
        let (main, sub) = (spaces_off(main), spaces_off(sub));
        let sub = match (main, sub) {
            ("*", "") => "*",
            (_, "") => return None,
            (_, sub) if sub.contains('/') => return None,
            (_, sub) => sub,
        };
        let mut clause = Clause { main, sub, weight: 1.0, parameters: Vec::new() };
        for parameter in rest.split(';') {
            let Some((key, value)) = parameter.split_once('=') else { continue };
            if value.is_empty() || value.contains('=') {
                continue;
            }
            match spaces_off(key) {
                "q" => clause.weight = value.parse().unwrap_or(0.0),
                key => clause.parameters.push((key, spaces_off(value))),
            }
        }
        Some(clause)
    }

    /// A parameter's value; empty where the clause does not have it. Of two the last counts.
    pub fn get(&self, key: &str) -> &'a str {
        self.parameters.iter().rev().find(|(k, _)| *k == key).map(|(_, value)| *value).unwrap_or_default()
    }

    /// Whether the clause has the parameter.
    pub fn has(&self, key: &str) -> bool {
        self.parameters.iter().any(|(k, _)| *k == key)
    }

    /// Whether it asks for another kind of object than what is served: one of `as`, `g` and `v`.
    pub fn converts(&self) -> bool {
        ["as", "g", "v"].iter().any(|key| self.has(key))
    }

    /// Whether a media type such as `application/json` satisfies it.
    pub fn takes(&self, media: &str) -> bool {
        let (main, sub) = media.split_once('/').unwrap_or((media, ""));
        match (self.main, self.sub) {
            ("*", "*") => true,
            (wanted, "*") => wanted == main,
            (wanted, wanted_sub) => (wanted, wanted_sub) == (main, sub),
        }
    }

    fn goes_before(&self, other: &Clause<'_>) -> bool {
        self.weight > other.weight
            || (self.main != "*" && other.main == "*")
            || (self.sub != "*" && other.sub == "*")
    }
}

fn spaces_off(text: &str) -> &str {
    text.trim_matches(' ')
}

/// The clauses of a header, best first; what is none is left out.
pub fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut sorted: Vec<Clause<'_>> = Vec::new();
    for clause in header.split(',').filter_map(|text| Clause::parse(spaces_off(text))) {
        // By insertion, as upstream sorts short lists: the rule is no order (a specific type goes before a wildcard
        // of any weight, and the other way round if the weight says so), so that the way of sorting shows.
        let at = sorted.iter().rposition(|before| !clause.goes_before(before)).map_or(0, |at| at + 1);
        sorted.insert(at, clause);
    }
    sorted
}

/// Whether a client wants indented JSON: the `pretty` parameter if there is one, else what its `User-Agent` is.
pub fn wants_pretty(parameter: Option<&str>, user_agent: &str) -> bool {
    match parameter.filter(|value| !value.is_empty()) {
        Some(value) => matches!(value, "1" | "t" | "T" | "TRUE" | "true" | "True"),
        None => ["curl", "Wget", "Mozilla/5.0"].iter().any(|known| user_agent.starts_with(known)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, expected: &[&str]) {
        let found: Vec<String> = clauses(header).iter().map(|c| format!("{}/{}", c.main, c.sub)).collect();
        assert_eq!(found, expected, "{header}");
    }

    #[test]
    fn the_best_clause_comes_first() {
        check("", &[]);
        check("a/b, c/d", &["a/b", "c/d"]);
        check("a/b;q=0.4, c/d;q=0.5", &["c/d", "a/b"]);
        check("*/*, a/*, a/b", &["a/b", "a/*", "*/*"]);
        // No weight is no refusal, as upstream reads it.
        check("a/b;q=0, c/d", &["c/d", "a/b"]);
        check("a/b;q=x, c/d;q=0.1", &["c/d", "a/b"]);
    }

    #[test]
    fn what_is_no_media_type_is_no_clause() {
        check("json", &[]);
        check("*", &["*/*"]);
        check("a/b/c, ,a/b", &["a/b"]);
    }

    #[test]
    fn parameters() {
        let header = "application/json; as=Table;v=v1 ;g=meta.k8s.io;odd;x==y;";
        let clauses = clauses(header);
        let clause = &clauses[0];
        assert_eq!((clause.get("as"), clause.get("v"), clause.get("g")), ("Table", "v1", "meta.k8s.io"));
        assert!(clause.converts() && !clause.has("odd") && !clause.has("x"));
        assert!(clause.takes("application/json") && !clause.takes("application/yaml"));
        assert!(super::clauses("application/*")[0].takes("application/yaml"));
        assert!(!super::clauses("text/*")[0].takes("application/yaml"));
    }
}
