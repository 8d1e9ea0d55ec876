//! What varies between runs is replaced by a word, so that what is left can be compared.

use std::sync::LazyLock;

use regex::Regex;

/// Patterns and what stands for what they match, in the order of use.
const MASKS: &[(&str, &str)] = &[
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UID"),
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[-+]\d\d:\d\d)", "TIME"),
    (r"\b[MTWFS][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [-+]\d{4}", "TIME"),
    (r#"("?[rR]esourceVersion"?: "?)\d+("?)"#, "${1}RV${2}"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ [-+]\d{4}", "TIME"),
    (r"/\S*/(LIVE|MERGED)-\d+/", "/$1/"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [-+]\d{4} \w+", "TIME"),
    (r"/tmp/kubectl-edit-\d+", "/tmp/kubectl-edit"),
    // What the client's library logs depends on how long a connection lasted.
    (r"(?m)^[WEI]\d{4} \d\d:\d\d:.*\n", ""),
    (r"https://[0-9.]+:\d+", "SERVER"),
    (r"\b10\.(96|0)\.\d+\.\d+\b", "CLUSTERIP"),
    (r#"([nN]odePort"?:\s+)(<unset>\s+)?3[0-2]\d{3}\b"#, "${1}${2}NODEPORT"),
    (r":3[0-2]\d{3}/", ":NODEPORT/"),
    (r#"(\w+-template-hash"?[=:] ?"?)[a-z0-9]{5,10}\b"#, "${1}HASH"),
    (r"(controller-revision-hash[=:] ?)([-a-z]*-)?[a-z0-9]{5,10}\b", "${1}HASH"),
    // Names made by a server: a hash, letters of its alphabet, or both.
    (r"-[bcdf-hj-np-tv-xz2456789]{8,10}-[bcdf-hj-np-tv-xz2456789]{5}\b", "-HASH-RAND"),
    (r"-[bcdf-hj-np-tv-xz2456789]{8,10}\b", "-HASH"),
    (r"-[bcdf-hj-np-tv-xz2456789]{5}\b", "-RAND"),
    // Ages, in a column or in an event's.
    (
        r"(?m)(^|[ \t]{2,})(\d+[smhd]){1,2}( ago)?( \(x\d+ over (\d+[smhd]){1,2}\))?([ \t]{2,}|$)",
        "${1}AGE${6}",
    ),
    // Since kubectl 1.35 it says from where.
    (r#"(?m)(" (force )?deleted) from \S+ namespace( \(|$)"#, "${1}${3}"),
    // Columns are as wide as what is in them.
    (r"(\S)[ \t]{2,}", "${1}   "),
    (r"(?m)[ \t]+$", ""),
];

/// The text with all that varies replaced.
pub(crate) fn mask(text: &str) -> String {
    static COMPILED: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        MASKS.iter().map(|(pattern, word)| (Regex::new(pattern).expect("a pattern"), *word)).collect()
    });
    COMPILED.iter().fold(text.to_owned(), |text, (pattern, word)| match pattern.replace_all(&text, *word) {
        std::borrow::Cow::Borrowed(_) => text,
        std::borrow::Cow::Owned(changed) => changed,
    })
}

#[test]
fn what_varies_is_masked_and_nothing_else() {
    for (text, wanted) in [
        ("web   1/1   3m20s\n", "web   1/1   AGE\n"),
        ("web   1/1   3s   <none>", "web   1/1   AGE   <none>"),
        ("delay=0s timeout=1s", "delay=0s timeout=1s"),
        ("pod/web-abcde created", "pod/web-abcde created"),
        ("pod/web-66b6c48dd5-x2f4z created", "pod/web-HASH-RAND created"),
        ("  resourceVersion: \"17\"", "  resourceVersion: \"RV\""),
        ("at: 2026-11-27T07:57:37Z", "at: TIME"),
        ("80:31234/TCP", "80:NODEPORT/TCP"),
        ("pod \"one\" deleted from x namespace", "pod \"one\" deleted"),
        ("pod \"one\" deleted", "pod \"one\" deleted"),
    ] {
        assert_eq!(mask(text), wanted);
    }
}
