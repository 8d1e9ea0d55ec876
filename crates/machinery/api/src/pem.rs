//! PEM blocks as Go reads them, which is what upstream's validation and kubelet see of a text.
//!
//! Source: `encoding/pem` of Go; a block that does not parse is passed over as if it were not there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What it says it is: `CERTIFICATE`.
    pub label: String,
    /// Whether lines of `Name: value` come before the content.
    pub has_headers: bool,
    /// The content.
    pub bytes: Vec<u8>,
}

/// The blocks of a text, in its order. Anything between them is passed over.
pub fn blocks(text: &str) -> Vec<Block> {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let label = lines[at].strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
        match label.and_then(|label| block(label, &lines[at + 1..])) {
            Some((block, length)) => {
                found.push(block);
                at += 1 + length;
            }
            None => at += 1,
        }
    }
    found
}

/// The block whose first line has been read, and how many more lines it has.
fn block(label: &str, lines: &[&str]) -> Option<(Block, usize)> {
    let headers = lines.iter().take_while(|line| line.contains(':')).count();
    let end = lines.iter().position(|line| line.starts_with("-----END"))?;
    if lines[end] != format!("-----END {label}-----") {
        return None;
    }
    let content: String = lines.get(headers..end)?.iter().flat_map(|line| line.split([' ', '\t'])).collect();
    let bytes = STANDARD.decode(content).ok()?;
    Some((Block { label: label.to_owned(), has_headers: headers > 0, bytes }, end + 1))
}

#[cfg(test)]
mod tests {
    use podium_pki::certificate::to_pem;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for length in [0_u8, 1, 47, 48, 49, 200] {
            let bytes: Vec<u8> = (0..length).collect();
            let text = to_pem("CERTIFICATE", &bytes);
            assert!(text.lines().all(|line| line.len() <= 64), "{text}");
            let wanted = Block { label: "CERTIFICATE".into(), has_headers: false, bytes };
            assert_eq!(blocks(&text), [wanted]);
        }
    }

    #[test]
    fn only_whole_blocks_count() {
        let good = "-----BEGIN A-----\nQQ==\n-----END A-----\n";
        let labels = |text: &str| blocks(text).into_iter().map(|b| (b.label, b.bytes)).collect::<Vec<_>>();
        let a = || ("A".to_owned(), b"A".to_vec());
        for (text, count) in [
            ("", 0),
            (good, 1),
            (&format!("words\n{good}more words\n{good}"), 2),
            ("-----BEGIN A-----\nQ Q\t==  \r\n-----END A-----", 1),
            ("-----BEGIN A-----\nQQ==\n-----END B-----\n", 0),
            ("-----BEGIN A-----\nQQ==\n", 0),
            ("-----BEGIN A-----\n!\n-----END A-----\n", 0),
            (" -----BEGIN A-----\nQQ==\n-----END A-----\n", 0),
            // One that breaks off does not take the next with it.
            (&format!("-----BEGIN A-----\nQQ==\n{good}"), 1),
        ] {
            assert_eq!(labels(text), vec![a(); count], "{text:?}");
        }
    }

    #[test]
    fn headers_are_seen() {
        let text = "-----BEGIN A-----\nProc-Type: 4\n\nQQ==\n-----END A-----\n";
        assert_eq!(blocks(text), [Block { label: "A".into(), has_headers: true, bytes: b"A".to_vec() }]);
    }
}
