//! `/statusz` and `/flagz`: the pages on which a component says what it is and how it was started.
//!
//! Pure: what is shown, the time, and the choice of the delimiter are arguments, and the answer is a status code, a
//! media type and bytes, which each component's server sends its own way. Authorisation is the component's, too.
//!
//! Source: upstream's `k8s.io/apiserver/pkg/server/statusz` and `.../flagz` (KEP-4827, KEP-4828; beta and on since
//! v1.36). Not served, as there: protobuf. Not served here: CBOR, whose gate is off by default.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use jiff::Timestamp;
use serde::Serialize;

pub use crate::accept::wants_pretty;
use crate::accept::{self, Clause};
use crate::codec::{self, Encoding};
use crate::status::ApiError;

/// The path of the page about the component.
pub const STATUSZ: &str = "/statusz";

/// The path of the page of flags.
pub const FLAGZ: &str = "/flagz";

/// In place of Go's version.
pub const RUNTIME: &str = "none (Rust)";

/// A flag's value that nobody may see.
pub const CLASSIFIED: &str = "CLASSIFIED";

const GROUP: &str = "config.k8s.io";

/// What both pages are served as, in upstream's order.
const OFFERED: [&str; 3] = ["application/json", "application/yaml", TEXT];

const TEXT: &str = "text/plain";

/// Folders that say nothing about how the component is.
const NOT_FOR_DEBUGGING: [&str; 5] = ["/.well-known", "/api", "/apis", "/openapi", "/openid"];

/// A component, as it says on its page what it is.
#[derive(Clone, Copy, Debug)]
pub struct Component<'a> {
    /// As upstream names it on these pages: `apiserver`, `kubelet`, `kube-scheduler`.
    pub name: &'a str,
    /// When its process began.
    pub started: Timestamp,
    /// In place of Go's version.
    pub runtime: &'a str,
    /// Without the leading `v`.
    pub binary_version: &'a str,
    /// Major and minor; `None` where the component emulates nothing.
    pub emulation_version: Option<&'a str>,
    /// Every path it serves; the page names the first folder of each.
    pub paths: &'a [String],
}

/// One of the pages.
#[derive(Clone, Copy, Debug)]
pub enum Page<'a> {
    /// What the component is.
    Statusz(Component<'a>),
    /// How it was started: names of flags without dashes, values as text, [`CLASSIFIED`] for secrets.
    Flagz {
        /// As upstream names it on these pages.
        name: &'a str,
        /// By name.
        flags: &'a BTreeMap<String, String>,
    },
}

/// A component that serves both pages.
#[derive(Clone, Debug)]
pub struct Pages {
    /// As upstream names it on these pages.
    pub name: &'static str,
    /// When it began.
    pub started: Timestamp,
    /// By name without dashes.
    pub flags: BTreeMap<String, String>,
    /// Every path it serves.
    pub paths: Vec<String>,
}

impl Pages {
    /// The answer at a path; `None` where neither of the pages is.
    pub fn at(&self, path: &str, asked: Asked<'_>) -> Option<Answer> {
        let page = match path {
            STATUSZ => Page::Statusz(Component::of_build(self.name, self.started, &self.paths)),
            FLAGZ => Page::Flagz { name: self.name, flags: &self.flags },
            _ => return None,
        };
        Some(answer(page, asked))
    }
}

/// What a client asks for, and when.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The `Accept` header; empty where there is none.
    pub accept: &'a str,
    /// Indented JSON: see [`wants_pretty`].
    pub pretty: bool,
    /// The time of the answer.
    pub now: Timestamp,
    /// Any number: it picks the delimiter of the text, which varies so that nobody parses it.
    pub pick: usize,
}

/// The answer to a request for a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 or 406.
    pub code: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
    /// The `Warning` header of a version that is on its way out.
    pub warning: Option<&'static str>,
}

/// Answers a request for a page.
pub fn answer(page: Page<'_>, asked: Asked<'_>) -> Answer {
    if asked.accept.trim().is_empty() {
        return text(page, asked);
    }
    let clauses = accept::clauses(asked.accept);
    let chosen = clauses.iter().find_map(|clause| choose(page, clause).map(|form| (clause, form)));
    match chosen {
        None => not_acceptable(&clauses),
        Some((_, Form::Text)) => text(page, asked),
        Some((clause, Form::Object(version, encoding))) => {
            let pretty = asked.pretty || clause.get("pretty") == "1";
            object(page, asked.now, version, encoding, pretty)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1Alpha1,
    V1Beta1,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Text,
    Object(Version, Encoding),
}

/// Text is never converted, objects are only served as one of the versions of the page's kind.
fn choose(page: Page<'_>, clause: &Clause<'_>) -> Option<Form> {
    let refused = ["stream", "sv"].iter().any(|key| !clause.get(key).is_empty());
    OFFERED.iter().filter(|media| !refused && clause.takes(media)).find_map(|media| {
        let encoding = match *media {
            TEXT => return (!clause.converts()).then_some(Form::Text),
            "application/yaml" => Encoding::Yaml,
            _ => Encoding::Json,
        };
        let version = match clause.get("v") {
            "v1alpha1" => Version::V1Alpha1,
            "v1beta1" => Version::V1Beta1,
            _ => return None,
        };
        let same = clause.get("g") == GROUP && clause.get("as") == page.kind();
        same.then_some(Form::Object(version, encoding))
    })
}

/// The refusal is in what the client takes, if it is an encoding of objects.
fn not_acceptable(clauses: &[Clause<'_>]) -> Answer {
    let message = format!("only the following media types are accepted: {}", OFFERED.join(", "));
    let status = ApiError::new(406, "NotAcceptable", message).to_status();
    let plain = |clause: &&Clause<'_>| {
        !clause.converts() && clause.get("sv").is_empty() && matches!(clause.get("stream"), "" | "watch")
    };
    let yaml = clauses
        .iter()
        .filter(plain)
        .find_map(|clause| OFFERED.iter().find(|media| clause.takes(media)))
        .is_some_and(|media| *media == "application/yaml");
    let (content_type, body) = if yaml {
        ("application/yaml", codec::encode(&status, Encoding::Yaml))
    } else {
        ("application/json", codec::encode(&status, Encoding::Json))
    };
    Answer { code: 406, content_type, body, warning: None }
}

/// The pages as objects, members in upstream's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<'a, B> {
    kind: &'static str,
    api_version: &'static str,
    metadata: Metadata<'a>,
    #[serde(flatten)]
    body: B,
}

#[derive(Serialize)]
struct Metadata<'a> {
    name: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Statusz<'a> {
    start_time: String,
    uptime_seconds: i64,
    go_version: &'a str,
    binary_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    emulation_version: Option<&'a str>,
    paths: Vec<&'a str>,
}

#[derive(Serialize)]
struct Flagz<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    flags: &'a BTreeMap<String, String>,
}

impl<'a> Page<'a> {
    fn kind(&self) -> &'static str {
        match self {
            Page::Statusz(_) => "Statusz",
            Page::Flagz { .. } => "Flagz",
        }
    }

    fn name(&self) -> &'a str {
        match self {
            Page::Statusz(component) => component.name,
            Page::Flagz { name, .. } => name,
        }
    }
}

impl<'a> Component<'a> {
    /// A component of this build, which emulates no other version.
    pub fn of_build(name: &'a str, started: Timestamp, paths: &'a [String]) -> Self {
        let binary_version = crate::VERSION.trim_start_matches('v');
        let (major_minor, _) = binary_version.rsplit_once('.').unwrap_or((binary_version, ""));
        let emulation_version = Some(major_minor);
        Self { name, started, runtime: RUNTIME, binary_version, emulation_version, paths }
    }

    fn uptime_seconds(&self, now: Timestamp) -> i64 {
        (now.as_second() - self.started.as_second()).max(0)
    }

    /// First folders of the paths, each once, sorted.
    fn folders(&self) -> Vec<&'a str> {
        let folder = |path: &'a String| {
            let rest = path.strip_prefix('/')?;
            let end = rest.find('/').unwrap_or(rest.len());
            let folder = &path[..=end];
            (end > 0 && !NOT_FOR_DEBUGGING.contains(&folder)).then_some(folder)
        };
        let folders: BTreeSet<&str> = self.paths.iter().filter_map(folder).collect();
        folders.into_iter().collect()
    }
}

fn object(page: Page<'_>, now: Timestamp, version: Version, encoding: Encoding, pretty: bool) -> Answer {
    let body = match page {
        Page::Statusz(component) => {
            let started = component.started.as_second();
            let whole = Timestamp::from_second(started).unwrap_or(component.started);
            let body = Statusz {
                start_time: whole.to_string(),
                uptime_seconds: component.uptime_seconds(now),
                go_version: component.runtime,
                binary_version: component.binary_version,
                emulation_version: component.emulation_version,
                paths: component.folders(),
            };
            encode(page, body, version, encoding, pretty)
        }
        Page::Flagz { flags, .. } => encode(page, Flagz { flags }, version, encoding, pretty),
    };
    let warning = match page {
        _ if version == Version::V1Beta1 => None,
        Page::Statusz(_) => {
            Some("299 - \"This version of the statusz endpoint is deprecated. Please use a newer version.\"")
        }
        Page::Flagz { .. } => {
            Some("299 - \"This version of the flagz endpoint is deprecated. Please use a newer version.\"")
        }
    };
    Answer { code: 200, content_type: object_type(page, version, encoding), body, warning }
}

fn encode<B: Serialize>(
    page: Page<'_>,
    body: B,
    version: Version,
    encoding: Encoding,
    pretty: bool,
) -> Vec<u8> {
    let api_version = match version {
        Version::V1Alpha1 => "config.k8s.io/v1alpha1",
        Version::V1Beta1 => "config.k8s.io/v1beta1",
    };
    let object = Object { kind: page.kind(), api_version, metadata: Metadata { name: page.name() }, body };
    let why = "text and numbers always encode";
    match encoding {
        // YAML has its members sorted.
        Encoding::Yaml => codec::encode(&serde_json::to_value(object).expect(why), encoding),
        _ => {
            if pretty {
                return serde_json::to_vec_pretty(&object).expect(why);
            }
            let mut text = serde_json::to_vec(&object).expect(why);
            text.push(b'\n');
            text
        }
    }
}

fn object_type(page: Page<'_>, version: Version, encoding: Encoding) -> &'static str {
    macro_rules! of {
        ($media:literal) => {
            match (page, version) {
                (Page::Statusz(_), Version::V1Alpha1) => {
                    concat!($media, ";g=config.k8s.io;v=v1alpha1;as=Statusz")
                }
                (Page::Statusz(_), Version::V1Beta1) => {
                    concat!($media, ";g=config.k8s.io;v=v1beta1;as=Statusz")
                }
                (Page::Flagz { .. }, Version::V1Alpha1) => {
                    concat!($media, ";g=config.k8s.io;v=v1alpha1;as=Flagz")
                }
                (Page::Flagz { .. }, Version::V1Beta1) => {
                    concat!($media, ";g=config.k8s.io;v=v1beta1;as=Flagz")
                }
            }
        };
    }
    match encoding {
        Encoding::Yaml => of!("application/yaml"),
        _ => of!("application/json"),
    }
}

/// For people.
fn text(page: Page<'_>, asked: Asked<'_>) -> Answer {
    const DELIMITERS: [&str; 4] = [":", ": ", "=", " "];
    let delimiter = DELIMITERS[asked.pick % DELIMITERS.len()];
    let mut text = match page {
        Page::Statusz(component) => format!("\n{} statusz\n", component.name),
        Page::Flagz { name, .. } => format!("\n{name} flagz\n"),
    };
    text.push_str(
        "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n",
    );
    match page {
        Page::Statusz(component) => describe(&mut text, component, asked.now, delimiter),
        Page::Flagz { flags, .. } => {
            for (name, value) in flags {
                let _ = writeln!(text, "{name}{delimiter}{value}");
            }
        }
    }
    Answer { code: 200, content_type: "text/plain; charset=utf-8", body: text.into_bytes(), warning: None }
}

fn describe(text: &mut String, component: Component<'_>, now: Timestamp, delimiter: &str) {
    let started = component.started.strftime("%a %b %e %H:%M:%S UTC %Y");
    let up = component.uptime_seconds(now);
    let _ = writeln!(text, "\nStarted{delimiter} {started}");
    let (hours, minutes, seconds) = (up / 3600, up / 60 % 60, up % 60);
    let _ = writeln!(text, "Up{delimiter} {hours} hr {minutes:02} min {seconds:02} sec");
    let _ = writeln!(text, "Go version{delimiter} {}", component.runtime);
    let _ = writeln!(text, "Binary version{delimiter} {}", component.binary_version);
    // Both lines are there, empty, where there is nothing to say.
    match component.emulation_version {
        Some(version) => writeln!(text, "Emulation version{delimiter} {version}"),
        None => writeln!(text),
    }
    .expect("writing to a string");
    let paths = component.folders().join(" ");
    let _ = if paths.is_empty() { writeln!(text) } else { writeln!(text, "Paths{delimiter} {paths}") };
}

#[cfg(test)]
mod tests;
